"""Files of PhysioNet's data sets, downloaded and checked by their published sums."""

import warnings


def fetch_sums(base_url, root):
    """Download the SHA-256 sums of a data set.

    Parameters
    ----------
    base_url : str
        Address of the data set, ending in a slash.
    root : pathlib.Path
        Folder that the data set is downloaded into.

    Returns
    -------
    dict of str to str
        The sum of each file by its path in the data set; empty, with a warning, where
        there are none to be had.
    """
    try:
        path = download(base_url, root, "SHA256SUMS.txt", None)
        rows = [line.split(maxsplit=1) for line in path.read_text("utf-8").splitlines()]
        sums = {row[1]: row[0] for row in rows if len(row) == 2 and len(row[0]) == 64}
        if not sums:
            path.unlink()
            raise OSError(f"{base_url}SHA256SUMS.txt holds no sums.")
    except (OSError, UnicodeDecodeError) as error:
        warnings.warn(f"Files will not be checked, for want of sums: {error}", stacklevel=3)
        return {}
    return sums


def download(base_url, root, path, known_hash):
    """Download a file to its place under a folder, unless it is there and whole.

    Parameters
    ----------
    base_url : str
        Address of the data set, ending in a slash.
    root : pathlib.Path
        Folder that the data set is downloaded into.
    path : str
        Path of the file in the data set.
    known_hash : str or None
        Its SHA-256 sum; None checks nothing.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    OSError
        If it cannot be downloaded or has another sum. Nothing is left of it.
    """
    import pooch

    place = root / path
    try:
        pooch.retrieve(
            base_url + path,
            known_hash=known_hash,
            fname=place.name,
            path=place.parent,
            downloader=pooch.HTTPDownloader(chunk_size=2**20),
        )
    except (OSError, ValueError) as error:  # those of requests; pooch's, of another sum
        raise OSError(
            f"{base_url}{path} could not be downloaded: {error} Files that are complete "
            "stay; call again to go on."
        ) from error
    return place
