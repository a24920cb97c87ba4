"""The Hugging Face hub: the one place that sends anything over the network."""

from __future__ import annotations

from pathlib import Path


def upload(folder: Path, repository: str, private: bool) -> str:
    """Upload a folder to a model repository ("owner/name"), which is made if there is none; returns its address.

    ValueError, in one line, if the hub refuses or cannot be reached.
    """
    import huggingface_hub

    try:
        api = huggingface_hub.HfApi()
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder)
        return str(made)
    except Exception as error:  # every kind of network, login and name failure is the user's to mend
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"'{repository}' could not be uploaded ({type(error).__name__}: {line})") from error
