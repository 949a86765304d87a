"""What installing the package alone gives: the library, on msgspec and nothing else."""

import subprocess
import sys

# Everything but the standard library, msgspec and ourselves is made to look as if it were not installed.
PROGRAM = """
import importlib, importlib.abc, pkgutil, sys

class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "coatcheck", "msgspec"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
import coatcheck
extras = {"accounts", "cli", "server", "integrations", "testing", "tokens", "probe", "__main__"}
for module in pkgutil.iter_modules(coatcheck.__path__):
    if module.name not in extras:
        importlib.import_module(f"coatcheck.{module.name}")
"""


def test_the_library_imports_with_msgspec_alone() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_tokens_without_their_package_say_what_to_install() -> None:
    program = (
        PROGRAM
        + """
try:
    import coatcheck.tokens
except coatcheck.MissingDependency as error:
    assert "pip install 'coatcheck[tokens]'" in str(error), error
else:
    raise SystemExit("it was imported without joserfc")
"""
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
