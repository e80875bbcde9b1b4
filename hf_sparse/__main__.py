"""`python -m hf_sparse` is the command `hf-sparse`."""

from hf_sparse.cli.main import main

if __name__ == "__main__":
    main()
