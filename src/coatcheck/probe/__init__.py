"""Measures what a server does with connections and sessions under each HTTP version. Needs the extra `probe`.

    from coatcheck.probe import probe

    report = await probe("https://example.com", requests=20)
    print(report.answer)
    print(report.versions["h1.1"].connections)

Sends nothing but GET or HEAD, and WebSocket handshakes. Nothing of the rest of Coatcheck is used but `cookies` and `errors`;
the command line is `coatcheck.cli.probe`.
"""

try:
    import aioquic as _aioquic
    import h2 as _h2
    import h11 as _h11
    import wsproto as _wsproto
except ImportError as _error:
    from coatcheck.errors import MissingDependency

    raise MissingDependency(_error.name or "aioquic", "probe", "coatcheck.probe") from None

from coatcheck.probe.errors import ProbeError, ProbeUsageError, Unreachable
from coatcheck.probe.findings import Finding
from coatcheck.probe.levels import Level
from coatcheck.probe.options import Options, Selection, Version
from coatcheck.probe.probing import probe
from coatcheck.probe.progress import Progress
from coatcheck.probe.report import Report, report_schema

del _aioquic, _h2, _h11, _wsproto

__all__ = [
    "Finding",
    "Level",
    "Options",
    "ProbeError",
    "ProbeUsageError",
    "Progress",
    "Report",
    "Selection",
    "Unreachable",
    "Version",
    "probe",
    "report_schema",
]
