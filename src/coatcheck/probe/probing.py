"""`probe`: the whole of it as one call. Leaves the measurement to `prober`, and its meaning to `report`."""

from pathlib import Path

from coatcheck.probe.options import Options, Selection
from coatcheck.probe.prober import Prober
from coatcheck.probe.progress import OnProgress
from coatcheck.probe.report import Report, make_report

__all__ = ["probe"]

_DEFAULT = Options()


async def probe(
    url: str,
    *,
    requests: int = _DEFAULT.requests,
    concurrency: int = _DEFAULT.concurrency,
    only: tuple[Selection, ...] = _DEFAULT.only,
    idle: float | None = None,
    insecure: bool = False,
    ca: Path | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    cookies: tuple[tuple[str, str], ...] = (),
    head: bool = False,
    follow: bool = False,
    websocket_path: str | None = None,
    timeout: float = _DEFAULT.timeout,
    on_progress: OnProgress | None = None,
) -> Report:
    """Measure a server; see `Options` for what each argument means.

    Raises ProbeUsageError if the URL or an option is wrong, and Unreachable if there was no answer at all. Whatever else
    goes wrong is in the report.
    """
    options = Options(
        requests=requests,
        concurrency=concurrency,
        only=only,
        idle=idle,
        insecure=insecure,
        ca=ca,
        headers=headers,
        cookies=cookies,
        head=head,
        follow=follow,
        websocket_path=websocket_path,
        timeout=timeout,
    )
    prober = Prober(url, options, on_progress)
    await prober.run()
    return make_report(prober)
