"""The small model's weights written again as Q8_0: a second model for the demo without a second download.

No quality is gained (the information is that of the source), so the file's name says where it comes from.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

_ARCHITECTURE = "general.architecture"
_FILE_TYPE = "general.file_type"


class RequantiseError(Exception):
    """The source cannot be read, or what was written does not read back as it should."""


def to_q8_0(source: Path, target: Path) -> None:
    """Write ``source`` to ``target`` with every quantised tensor as Q8_0. Blocks for some seconds.

    One tensor is in memory at a time. Raises RequantiseError.
    """
    try:
        import gguf
    except ImportError as error:
        raise RequantiseError("requantising needs the gguf package: pip install gguf") from error
    part = target.with_name(f".{target.name}.part")
    try:
        reader = gguf.GGUFReader(source)
        _write(gguf, reader, part)
        _verify(gguf, reader, part)
        part.replace(target)
    except (ValueError, LookupError, OSError) as error:
        raise RequantiseError(f"{source} could not be requantised: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _write(gguf: Any, reader: Any, part: Path) -> None:
    writer = gguf.GGUFWriter(part, arch=reader.get_field(_ARCHITECTURE).contents())
    for field in reader.fields.values():
        _copy_field(gguf, writer, field)
    for tensor in reader.tensors:
        kind = _kind(gguf, tensor)
        shape = [int(length) for length in reversed(tensor.shape)]
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        size_bytes = math.prod(shape) // block * block_bytes
        writer.add_tensor_info(tensor.name, shape, None, size_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(_converted(gguf, tensor))
    writer.close()


def _copy_field(gguf: Any, writer: Any, field: Any) -> None:
    if field.name == _ARCHITECTURE or field.name.startswith("GGUF."):
        return  # the writer's own
    kind = field.types[0]
    inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
    value = int(gguf.LlamaFileType.MOSTLY_Q8_0) if field.name == _FILE_TYPE else field.contents()
    writer.add_key_value(field.name, value, kind, sub_type=inner)


def _kind(gguf: Any, tensor: Any) -> Any:
    """Q8_0 for what is quantised; norms and other floats stay as they are."""
    quantised = gguf.GGML_QUANT_SIZES[tensor.tensor_type][0] > 1
    return gguf.GGMLQuantizationType.Q8_0 if quantised else tensor.tensor_type


def _converted(gguf: Any, tensor: Any) -> Any:
    kind = _kind(gguf, tensor)
    if kind == tensor.tensor_type:
        return tensor.data
    return gguf.quants.quantize(gguf.quants.dequantize(tensor.data, tensor.tensor_type), kind)


def _verify(gguf: Any, source: Any, part: Path) -> None:
    """Read back: the same fields but the file type, the same tensors with the types that were meant."""
    written = gguf.GGUFReader(part)
    fields = {name for name in source.fields if not name.startswith("GGUF.")}
    missing = fields - set(written.fields)
    wanted = [(tensor.name, _kind(gguf, tensor), tensor.shape.tolist()) for tensor in source.tensors]
    found = [(tensor.name, tensor.tensor_type, tensor.shape.tolist()) for tensor in written.tensors]
    if missing or wanted != found:
        raise RequantiseError(f"{part} does not read back as written (fields missing: {sorted(missing)})")
