"""``dali-icgan bench ...``."""

import typer

from dali_icgan.cli import bench_results

app = typer.Typer(no_args_is_help=True, help="Benchmarks on your machine and files, and what their records say.")
app.command("report")(bench_results.report)
app.command("compare")(bench_results.compare)
app.command("profile")(bench_results.profile)
app.command("simulate")(bench_results.simulate)
