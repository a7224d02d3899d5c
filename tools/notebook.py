"""Run examples/digits.ipynb and keep what it showed in it: `python -m tools.notebook`. A test runs it, too."""

import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "digits.ipynb"
KERNEL = KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])


class _ThisPython(KernelSpecManager):
    """The kernel is this interpreter, whatever kernels the machine knows."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KERNEL


def executed(seconds: float = 300) -> nbformat.NotebookNode:
    """The notebook with its outputs. Raises `CellExecutionError` at the first cell that fails."""
    notebook: nbformat.NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    manager = AsyncKernelManager(kernel_spec_manager=_ThisPython(), transport="ipc")
    NotebookClient(notebook, km=manager, timeout=seconds, record_timing=False, coalesce_streams=True).execute()
    return notebook


def shown(notebook: nbformat.NotebookNode) -> str:
    """All text that the cells printed."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return "".join(output.get("text", "") for output in outputs)


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
