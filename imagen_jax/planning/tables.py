"""The plan as a person reads it."""


def counts(parameters: dict[str, int]) -> str:
    """A line for each part of the parameters."""
    return "\n".join(f"{name:<14}{count:>16,}" for name, count in parameters.items())


def told(report: dict) -> str:
    """The whole plan for a target: both programs, then the verdict."""
    lines = [f"\n{report['config']} on {report['target']}: {report['devices']} devices, batch {report['batch']}"]
    for name in ("training", "sampling"):
        lines += _estimate(name, report[name]["estimate"])
        if "compiled" in report[name]:
            lines += _compiled(name, report[name]["compiled"])
    return "\n".join([*lines, "", *report["verdict"]])


def _estimate(name: str, found: dict) -> list[str]:
    lines = [f"\n{name}, estimated", *_rows(found["gib"], "GiB a device"), _row("in all", found["gib a device"], "GiB")]
    lines.append("  largest at the peak:")
    lines += [f"    {x['gib']:8.3f} GiB  {x['count']:>3} x {x['array']}" for x in found["largest"][:5]]
    lines.append(_row("arithmetic", found["tflop"], f"TFLOP a call, {found['tflop an example']:.3f} an example"))
    lines += _rows(found["seconds"], "s a call")
    if "chip-hours" in found:
        lines.append(_row("rate", found["examples a second"], "examples a second"))
        hours = f"hours for {found['steps']:,} steps = {found['chip-hours']:,.0f} chip-hours"
        return [*lines, _row("run", found["hours"], hours)]
    return [*lines, _row("rate", found["pictures a second"], f"pictures a second, {found['pictures']} at once")]


def _compiled(name: str, found: dict) -> list[str]:
    lines = [f"\n{name}, compiled", *_rows(found.get("gib", {}), "GiB a device")]
    lines.append(_row("in all", found["gib a device"], "GiB"))
    for kind, x in found.get("collectives", {}).items():
        lines.append(f"  {kind:<28}{x['gib']:12.3f} GiB in {x['count']} operations")
    if "collective gib" in found:
        times = f"GiB a call, {found['collectives over parameters']:.2f} times the parameters in bfloat16"
        lines.append(_row("collectives", found["collective gib"], times))
        lines.append(f"  float32 weight gathers{found['float32 weight gathers']:>10}")
    return lines + [_row(stage, clock["wall"], "s") for stage, clock in found["seconds"].items()]


def _rows(values: dict[str, float], unit: str) -> list[str]:
    return [_row(name, value, unit) for name, value in values.items()]


def _row(name: str, value: float, unit: str) -> str:
    return f"  {name:<22}{value:12.3f} {unit}"
