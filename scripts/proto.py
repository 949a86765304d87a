"""Writes the Python of proto/: `make proto`. Its check in `make check` sees that what is committed is what it would write.

What protoc itself writes refuses every runtime of protobuf that is older than protoc. This writes the same messages in
terms of protobuf's public interface, which works with whatever the package is installed with.
"""

import re
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {"coatcheck/v1/sessions.proto": ROOT / "src/coatcheck/server/rpc/_generated/sessions_pb2"}
"""Each file in proto/, and where its messages go."""

HEADER = '''"""The messages of proto/{source}. Written by `make proto`: do not edit."""

{imports}
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(
{serialized}
)

'''
WIDTH = 100


def generate(source: str) -> tuple[str, str]:
    """Give the module and its types."""
    with tempfile.TemporaryDirectory() as made:
        descriptors = Path(made, "descriptors")
        include = str(files("grpc_tools").joinpath("_proto"))
        arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", f"--descriptor_set_out={descriptors}"]
        if protoc.main([*arguments, f"--pyi_out={made}", source]) != 0:
            raise SystemExit(f"{source} cannot be compiled")
        (file,) = FileDescriptorSet.FromString(descriptors.read_bytes()).file
        types = Path(made, source.replace(".proto", "_pb2.pyi")).read_text()
    for message in file.message_type:
        _drop_json_names(message)
    # A bare Mapping is of unknown types, and then so is whatever takes a message.
    types = re.sub(r"(?<!as )\b_Mapping\b(?!\[)", "_Mapping[str, object]", types)
    return _module(source, file), f"# Written by `make proto`: do not edit.\n{types}"


def _module(source: str, file: FileDescriptorProto) -> str:
    imports = [f"import {name.removesuffix('.proto').replace('/', '.')}_pb2" for name in file.dependency]
    text = HEADER.format(
        source=source,
        imports="\n".join(imports),
        serialized=_literal(file.SerializeToString(deterministic=True)),
    )
    for enum in file.enum_type:
        text += f'{enum.name} = EnumTypeWrapper(DESCRIPTOR.enum_types_by_name["{enum.name}"])\n'
        text += "".join(f"{value.name} = {value.number}\n" for value in enum.value)
    for message in file.message_type:
        text += (
            f'{message.name} = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["{message.name}"])\n'
        )
    return text


def _drop_json_names(message: DescriptorProto) -> None:
    """protoc's own plug-in for Python leaves them out: two files of one name must be the same."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        _drop_json_names(nested)


def _literal(data: bytes) -> str:
    pieces = [data[start : start + WIDTH // 2] for start in range(0, len(data), WIDTH // 2)]
    return "\n".join(f"    {piece!r}" for piece in pieces)


def stale() -> str:
    """Say which files are not what they would be; empty if all are."""
    wrong: list[str] = []
    for source, target in SOURCES.items():
        for suffix, text in zip((".py", ".pyi"), generate(source), strict=True):
            path = target.with_suffix(suffix)
            if not path.is_file() or path.read_text() != text:
                wrong.append(f"{path.relative_to(ROOT)} is not what `make proto` writes")
    return "\n".join(wrong)


def main() -> int:
    """Write them, or with `--check` only look."""
    if sys.argv[1:] == ["--check"]:
        output = stale()
        print(output)
        return 1 if output else 0
    for source, target in SOURCES.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in zip((".py", ".pyi"), generate(source), strict=True):
            target.with_suffix(suffix).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
