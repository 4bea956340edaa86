"""Running a plan with its progress shown."""

from rich.console import Console

from builder.build.action import Action
from builder.build.execute import Listener, Outcome, execute
from builder.build.plan import Context
from builder.cli._progress import progress_bar


def execute_shown(
    plan: list[Action], context: Context, *, force: bool, console: Console
) -> dict[Action, Outcome]:
    """Make what is out of date, with a bar for the actions and one for what takes long in them."""
    with progress_bar(console) as progress:
        task = progress.add_task("build", total=None, visible=False)
        inner = progress.add_task("", total=None, visible=False)

        def started(count: int) -> None:
            progress.update(task, total=count, visible=count > 0)

        def taking(action: Action) -> None:
            progress.update(task, description=str(action))

        def taken(action: Action, outcome: Outcome) -> None:
            progress.advance(task)
            progress.update(inner, visible=False)

        def phase(name: str, done: int, total: int) -> None:
            progress.update(
                inner, description=f"  {name}", completed=done, total=total, visible=True
            )

        context.progress = phase
        listener = Listener(started, taking, taken)
        return execute(plan, context.digests, force=force, listener=listener)
