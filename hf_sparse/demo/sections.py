"""Which part of the library a module of Python's standard library belongs to."""

# After the chapters of the Python Library Reference, with small chapters joined to their neighbours. A
# package stands for all its modules, unless one of them is listed as well.
SECTIONS: dict[str, str] = {
    "text": """
        _strptime codecs difflib encodings gettext html locale pprint re reprlib sre_compile
        sre_constants sre_parse string stringprep textwrap uuid shlex base64 binhex quopri uu
    """,
    "data types": """
        _collections_abc _py_abc _pydatetime _weakrefset abc array bisect calendar collections copy
        copyreg dataclasses datetime enum graphlib heapq numbers queue types weakref zoneinfo
    """,
    "mathematics": """
        _pydecimal cmath colorsys decimal fractions functools hashlib hmac operator random secrets
        statistics
    """,
    "files": """
        _bootlocale _compression _pyio aifc bz2 compression csv dbm filecmp fileinput fnmatch
        genericpath glob gzip io linecache lzma ntpath nturl2path pathlib pickle pickletools
        plistlib posixpath shelve shutil sqlite3 stat sunau tarfile tempfile tomllib wave zipapp
        zipfile configparser netrc xdrlib chunk sndhdr imghdr
    """,
    "operating system": """
        _aix_support _android_support _apple_support _ios_support _osx_support argparse cmd code
        codeop crypt ctypes curses getopt getpass logging nt optparse os pipes platform pty sched
        signal site sysconfig time tty
    """,
    "concurrency": """
        _threading_local asynchat asyncio asyncore concurrent contextvars multiprocessing selectors
        socket ssl subprocess threading
    """,
    "internet": """
        cgi cgitb ftplib http imaplib ipaddress nntplib poplib smtpd smtplib socketserver telnetlib
        urllib webbrowser wsgiref xmlrpc
    """,
    "mail and markup": "_markupbase email json mailbox mailcap mimetypes xml",
    "graphical interfaces": "tkinter turtle",
    "development": """
        _sitebuiltins bdb cProfile distutils doctest ensurepip pdb profile pstats pydoc timeit trace
        tracemalloc unittest venv _pyrepl rlcompleter profiling
    """,
    "language": """
        __future__ _ast_unparse _colorize _opcode_metadata annotationlib ast atexit compileall
        contextlib dis imp importlib inspect keyword modulefinder opcode pkgutil py_compile pyclbr
        runpy string.templatelib symtable tabnanny token tokenize traceback typing warnings
        zipimport
    """,
}
_SECTION_OF = {module: section for section, modules in SECTIONS.items() for module in modules.split()}


def section_of(module: str) -> str | None:
    """Name the section of a module such as `os` or `email.mime.text`; None if no chapter describes it."""
    package = module
    while package not in _SECTION_OF and "." in package:
        package = package.rpartition(".")[0]
    return _SECTION_OF.get(package)
