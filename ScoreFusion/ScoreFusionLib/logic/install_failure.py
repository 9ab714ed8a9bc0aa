"""From what pip printed to a sentence that tells the user what to do."""

from __future__ import annotations

import re

from ScoreFusionLib.i18n import tr as _


def explain(log: str) -> str:
    """Return what a failed installation means and what to do about it.

    Args:
        log: What pip printed; the first line of the table below that fits decides.
    """
    for pattern, text in _explanations():
        if re.search(pattern, log, re.IGNORECASE):
            return text
    return _("The installation of Python packages failed. The log below tells more.")


def _explanations() -> list[tuple[str, str]]:
    return [
        (
            r"proxy",
            _(
                "The installation failed at the network proxy. Set the environment variable HTTPS_PROXY to your "
                "proxy's address, start Slicer again and press Apply."
            ),
        ),
        (
            r"certificate|\bssl",
            _(
                "The installation failed at the certificate check: a proxy seems to read along. Ask your administrator "
                "for its certificate and set the environment variable REQUESTS_CA_BUNDLE (and PIP_CERT) to that file."
            ),
        ),
        (
            r"name resolution|getaddrinfo|connection|timed out|network is unreachable",
            _(
                "The packages could not be downloaded: there seems to be no network. Connect and press Apply again, or "
                "follow 'Installing offline' in the documentation."
            ),
        ),
        (
            r"no space left|errno 28\b",
            _("The disk is full. PyTorch needs up to 8 GB; make room and press Apply again."),
        ),
        (
            r"permission denied|errno 13\b|access is denied",
            _(
                "Slicer's folder cannot be written to, or a file in it is in use. Restart Slicer and press Apply "
                "again; if it recurs, start Slicer once as an administrator, or install it in your own folder."
            ),
        ),
        (
            r"no matching distribution|could not find a version",
            _(
                "pip found no build of a package for this Slicer and computer; the log below names it. Update Slicer, "
                "or follow 'Installing offline' in the documentation."
            ),
        ),
    ]
