"""Files on any store, by URI: plain path, file://, s3://, hf://, memory:// ... The only user of fsspec.

Endpoint and credentials come from the standard environment alone (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_PROFILE, HF_TOKEN, instance roles), so that they reach every worker the same way. For buckets on another store than
the rest, CITY_S3_PROFILES="bucket=profile,..." names their profile in the AWS configuration file (endpoint_url, keys or
role). Every error of a store becomes a `StorageError` of one line without credentials; its class tells what an operator
can do.
"""

from pipeline.storage.below import list_below, remove_below, some_below
from pipeline.storage.conditional_write import compare_and_swap
from pipeline.storage.failures import NotFoundError, RefusedError, UnreachableError, UnreadableFileError
from pipeline.storage.files import (
    cache_folder,
    copy,
    fetch_to_cache,
    make_dir,
    open_input,
    read_bytes,
    remove_file,
    remove_tree,
    upload,
    write_bytes_atomically,
)
from pipeline.storage.folders import (
    FolderEntry,
    exists,
    is_dangling,
    iter_folder,
    list_files,
    list_folders,
    stored_file,
)
from pipeline.storage.held_root import VanishedError, held_root
from pipeline.storage.listing import Listing, StoredFile
from pipeline.storage.records import (
    LISTED_BYTES,
    SMALL_BYTES,
    DamagedError,
    parse_record,
    parse_records,
    read_record,
    read_small,
)
from pipeline.storage.signed_folder import check_replaceable, read_signature, remove_signed, replace_folder, sign_folder
from pipeline.storage.uris import (
    DRIVE_ID_LENGTH,
    absolute,
    beside,
    check_drive_id,
    is_local,
    join,
    parent_and_name,
    redacted,
)

__all__ = [
    "DRIVE_ID_LENGTH",
    "LISTED_BYTES",
    "SMALL_BYTES",
    "DamagedError",
    "FolderEntry",
    "Listing",
    "NotFoundError",
    "RefusedError",
    "StoredFile",
    "UnreachableError",
    "UnreadableFileError",
    "VanishedError",
    "absolute",
    "beside",
    "cache_folder",
    "check_drive_id",
    "check_replaceable",
    "compare_and_swap",
    "copy",
    "exists",
    "fetch_to_cache",
    "held_root",
    "is_dangling",
    "is_local",
    "iter_folder",
    "join",
    "list_below",
    "list_files",
    "list_folders",
    "make_dir",
    "open_input",
    "parent_and_name",
    "parse_record",
    "parse_records",
    "read_bytes",
    "read_record",
    "read_signature",
    "read_small",
    "redacted",
    "remove_below",
    "remove_file",
    "remove_signed",
    "remove_tree",
    "replace_folder",
    "sign_folder",
    "some_below",
    "stored_file",
    "upload",
    "write_bytes_atomically",
]
