"""When an asset materialises by itself: on the monthly tick, when its month's data moved, or never.

Belongs here: automation conditions that several assets share. Does not belong here: sensors and schedules.
"""

from datetime import timedelta

import dagster as dg

DEVELOPMENT = {"chain": "development"}

REPAIR = "clinical/repair"
"""The tag of a run that says which repair makes its candidate; without it the model is trained anew."""

# `on_cron` would wait for every dependency to update since the tick, and the protocol never does.
MONTHLY_TICK = (
    dg.AutomationCondition.in_latest_time_window()
    & dg.AutomationCondition.cron_tick_passed("0 6 1 * *").since_last_handled()
    & ~dg.AutomationCondition.in_progress()
)

# Plain `eager` would score again after every release, find the same drift again, and retrain for ever.
FLOW = dg.AutomationCondition.eager().ignore(dg.AssetSelection.tag("chain", "development"))

# A withdrawal materialises the release too, and fails its one blocking check, `a_version_is_live`, until one is again.
NOTHING_IS_LIVE = dg.AutomationCondition.any_deps_match(
    dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed(), blocking_only=True)
).allow(dg.AssetSelection.tag("chain", "development"))

# What `ignore` leaves out is also that something is missing; without a champion there is nothing to score with.
SCORING = FLOW & ~dg.AutomationCondition.any_deps_missing() & ~NOTHING_IS_LIVE

# An outcome ripens after its month: the last three months are looked at again on every tick.
RIPENING_TICK = (
    dg.AutomationCondition.in_latest_time_window(lookback_delta=timedelta(days=93))
    & dg.AutomationCondition.cron_tick_passed("0 6 1 * *").since_last_handled()
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)
