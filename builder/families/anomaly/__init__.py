"""Satellite telemetry: OmniAnomaly for 27 SMAP channels, TranAD, and the pipelines of both."""

from builder.family import Family

FAMILY = Family(
    name="anomaly",
    title="Satellite telemetry: OmniAnomaly for 27 SMAP channels, TranAD",
    commands={
        "train anomaly": "builder.families.anomaly.commands:train_command",
        "evaluate anomaly": "builder.families.anomaly.commands:evaluate_command",
        "detect": "builder.families.anomaly.detect:detect_command",
    },
)
