"""What patterns buy, as a table."""

from collections.abc import Mapping, Sequence

from rich.console import Console

from hf_sparse.report.tables import narrow_table


def print_gains(
    about: str, times: Mapping[str, Mapping[float, float]], chosen: Sequence[str], console: Console
) -> None:
    """Print how often faster than dense each pattern is at each sparsity; those chosen are marked."""
    shares = list(next(iter(times.values())))
    table = narrow_table("pattern", *(f"{share:.0%} zeros" for share in shares))
    for name, gains in times.items():
        mark = " *" if name in chosen else ""
        table.add_row(name + mark, *(f"{gains[share]:.1f}x" for share in shares))
    console.print("", about, "", table, sep="\n", highlight=False)
    if any(name in chosen for name in times):
        console.print("* the recipe's", highlight=False)
