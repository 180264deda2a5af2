"""`python -m sim.workload`: ranking quality on a stream, for several batch sizes."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from node.ranking import RankingMachine
from sim.workload import movielens, quality
from sim.workload.stream import DataError
from sim.workload.synthetic import synthetic as make_synthetic


@click.command()
@click.option(
    "--ratings",
    type=click.Path(path_type=Path),
    help="A file in a MovieLens format instead of the package's.",
)
@click.option("--synthetic", is_flag=True, help="A made-up stream instead of MovieLens.")
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1, 256),
    multiple=True,
    default=(1, 4, 16, 64),
    show_default=True,
)
@click.option(
    "--last",
    type=click.IntRange(1),
    default=50_000,
    show_default=True,
    help="Interactions that pose questions.",
)
def main(ratings: Path | None, synthetic: bool, batches: tuple[int, ...], last: int) -> None:
    """Rank first, then learn, over a whole stream; print HR@10 and NDCG@10 for popularity and for the model."""
    try:
        stream = make_synthetic() if synthetic else movielens.load(ratings)
        questions = quality.Questions(stream, last=last)
    except DataError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    click.echo(
        f"{stream.report}; {len(stream)} positives, {len(stream.catalogue)} items, {questions.events} questions"
    )
    baseline = quality.popularity(stream, questions)
    click.echo(f"popularity          HR@10 {baseline.hr_at_10:.4f}   NDCG@10 {baseline.ndcg_at_10:.4f}")
    for batch in batches:
        tally = quality.evaluate(RankingMachine(), stream, questions, batch=batch)
        click.echo(f"model, batch {batch:3}    HR@10 {tally.hr_at_10:.4f}   NDCG@10 {tally.ndcg_at_10:.4f}")


if __name__ == "__main__":
    main()
