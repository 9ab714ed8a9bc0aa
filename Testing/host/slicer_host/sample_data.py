"""`SampleData`: records what modules register, and serves files that lie on this machine."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

import slicer


class SampleDataSource:
    """One data set as a module registered it."""

    def __init__(
        self,
        sampleName: str | None = None,
        sampleDescription: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        checksums: Any = None,
        loadFiles: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileType: Any = None,
        loadFileProperties: dict[str, Any] | None = None,
    ) -> None:
        self.sampleName = sampleName
        self.sampleDescription = sampleDescription or sampleName
        self.uris, self.fileNames, self.nodeNames, self.checksums, self.loadFileTypes = (
            _as_list(value) for value in (uris, fileNames, nodeNames, checksums, loadFileType)
        )
        lengths = {"fileNames": self.fileNames, "nodeNames": self.nodeNames, "checksums": self.checksums}
        for name, values in lengths.items():
            if values and len(values) != len(self.uris):
                msg = f"Sample '{sampleName}': {len(self.uris)} uris but {len(values)} {name}"
                raise ValueError(msg)
        self.loadFiles, self.customDownloader = loadFiles, customDownloader
        self.thumbnailFileName, self.loadFileProperties = thumbnailFileName, loadFileProperties or {}


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


# Category -> data sets, as slicer.modules.sampleDataSources in Slicer.
sources: dict[str, list[SampleDataSource]] = {}
categories: list[str] = []

# URL -> local file, filled by tests: nothing is fetched over the network.
local_files: dict[str, Path] = {}


def reset() -> None:
    """Forget everything."""
    sources.clear()
    categories.clear()
    local_files.clear()
    slicer.modules.sampleDataSources = sources


class SampleDataLogic:
    """Registers and loads sample data."""

    @staticmethod
    def registerCustomSampleDataCategory(category: str, *args: Any, **kwargs: Any) -> None:
        """Add a category (Slicer 5.12 and newer)."""
        if category not in categories:
            categories.append(category)

    @staticmethod
    def registerCustomSampleDataSource(category: str = "Custom", **source: Any) -> None:
        """Add a data set to a category; one of the same name is replaced."""
        new = SampleDataSource(**source)
        entries = sources.setdefault(category, [])
        entries[:] = [entry for entry in entries if entry.sampleName != new.sampleName] + [new]

    def sourceForSampleName(self, sampleName: str) -> SampleDataSource | None:
        """Find a data set by name, in any category."""
        entries = (entry for group in sources.values() for entry in group)
        return next((entry for entry in entries if entry.sampleName == sampleName), None)

    def logMessage(self, message: str, logLevel: int = logging.DEBUG) -> None:
        """Log a message."""
        logging.log(logLevel, message)

    def downloadFromURL(
        self,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        checksums: Any = None,
        loadFiles: Any = None,
        customDownloader: Any = None,
        loadFileTypes: Any = None,
        loadFileProperties: dict[str, Any] | None = None,
    ) -> list[Any]:
        """Serve the files and load them.

        Returns:
            The nodes; for files that are not loaded, their paths.
        """
        uris, fileNames, nodeNames, checksums, kinds = (
            _as_list(value) for value in (uris, fileNames, nodeNames, checksums, loadFileTypes)
        )
        results = []
        for index, uri in enumerate(uris):
            path = self.downloadFile(uri, checksum=checksums[index] if checksums else None)
            load = loadFiles[index] if isinstance(loadFiles, (list, tuple)) else loadFiles
            if load is False or (load is None and not nodeNames):
                results.append(path)
                continue
            kind = kinds[index] if len(kinds) == len(uris) else "VolumeFile"
            properties = {**(loadFileProperties or {}), "name": nodeNames[index]}
            results.append(slicer.util.loadNodeFromFile(path, kind, properties))
        return results

    def downloadFile(
        self, uri: str, destFolderPath: str | None = None, name: str | None = None, checksum: str | None = None
    ) -> str:
        """Return the local file of a URL, after checking its checksum ("SHA256:...")."""
        path = local_files.get(uri)
        if path is None and urlparse(uri).scheme == "file":
            path = Path(url2pathname(unquote(urlparse(uri).path)))
        if path is None or not Path(path).is_file():
            msg = f"The host serves local files only; put {uri} into SampleData.local_files"
            raise ValueError(msg)
        if checksum:
            algorithm, _, expected = checksum.partition(":")
            found = hashlib.new(algorithm.lower(), Path(path).read_bytes()).hexdigest()
            if found != expected.lower():
                msg = f"Checksum of {path} is {found}, expected {expected}"
                raise ValueError(msg)
        return str(path)

    def downloadFromSource(self, source: SampleDataSource) -> list[Any]:
        """Serve one data set."""
        if source.customDownloader is not None:
            return source.customDownloader(source)
        return self.downloadFromURL(
            source.uris,
            source.fileNames,
            source.nodeNames,
            source.checksums,
            source.loadFiles,
            loadFileTypes=source.loadFileTypes,
            loadFileProperties=source.loadFileProperties,
        )

    def downloadSamples(self, sampleName: str) -> list[Any]:
        """Serve one data set by name; all of its nodes."""
        source = self.sourceForSampleName(sampleName)
        if source is None:
            msg = f"There is no sample data named '{sampleName}'"
            raise ValueError(msg)
        return self.downloadFromSource(source)

    def downloadSample(self, sampleName: str) -> Any:
        """Serve one data set by name; its first node."""
        return self.downloadSamples(sampleName)[0]


def downloadSample(sampleName: str) -> Any:
    """Serve one data set by name; its first node."""
    return SampleDataLogic().downloadSample(sampleName)


def downloadSamples(sampleName: str) -> list[Any]:
    """Serve one data set by name; all of its nodes."""
    return SampleDataLogic().downloadSamples(sampleName)
