"""Plans that other machines built from an export that is not today's."""

from collections.abc import Iterable

from builder.build.action import Action
from builder.build.plan import Context
from builder.digest import sha256_value
from builder.engines.tensorrt import SUFFIX
from builder.record import read_record
from builder.repository.plans import PublishedPlan, published_plans


def stale_plans(context: Context, actions: Iterable[Action]) -> list[PublishedPlan]:
    """Plans of the models of a build that were made from another export than there is now.

    They stay and are served: only a GPU like theirs can replace them. A plan without a record
    counts as stale, since nothing says what it was made from.
    """
    exports = {
        action.model + SUFFIX: read_record(action.folder)
        for action in actions
        if action.artefact == "export"
    }
    stale = []
    for plan in published_plans(context.config.repository):
        export = exports.get(plan.model)
        if export is None:
            continue
        present = sha256_value([export.made_from, export.files])
        if plan.record is None or plan.record.made_from.get("export") != present:
            stale.append(plan)
    return stale
