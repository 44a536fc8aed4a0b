"""imgembed demo: find changed copies of real photographs, offline."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("imgembed-demo"),
    show_default=True,
    help="Folder for the pictures.",
)
@click.option(
    "--photographs",
    type=click.IntRange(4, 14),
    default=14,
    show_default=True,
    help="How many; fewer take less time.",
)
def demo(output: Path, photographs: int) -> None:
    """Find changed copies of real photographs, offline."""
    from ..demo import run_demo  # loads all that it shows

    run_demo(output, photographs)
