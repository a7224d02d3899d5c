"""From a checked `.pt2` to a module: torch.export's graph, built here node by node.

torch's own loader is never given the file: it evaluates expressions, resolves operators by walking attributes, and
unpickles. Here each operator is looked up in the list of those that are allowed, each name is replaced by one of ours,
and the tensors are those that `torch_export` has found. What a request changes, changes for that request only: buffers
that the graph writes to are copied first.
"""

from __future__ import annotations

import operator as python
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from score.errors import MalformedFile
from score.formats import dtypes
from score.formats._program import operators, symbols
from score.formats._program.export_plan import AUTOCAST, DTYPES, GRAD, HIGHER, IF, NotAllowed, Plan, number, operator_of
from score.formats._program.exported import Autocast, Branches, Exported, Sizes

_LAYOUTS = {7: torch.strided}
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_TABLES: dict[str, Mapping[int, Any]] = {
    "as_scalar_type": {number: dtypes.of(name) for number, name in DTYPES.items()},
    "as_layout": _LAYOUTS,
    "as_memory_format": _MEMORY_FORMATS,
}
_LITERALS = ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string", "as_strings")


def trace(plan: Plan) -> None:
    """Build the graph without its tensors, to know before it is served that nothing in it is refused. Raises
    `MalformedFile`, and `NotAllowed`."""
    _built(plan, lambda name: None, torch.device("cpu"))


def build(plan: Plan, tensors: Callable[[str], torch.Tensor], device: torch.device) -> Exported:
    """The module, its tensors on `device`. Raises `MalformedFile`."""
    root, graph = _built(plan, lambda name: tensors(name).to(device), device)
    try:
        return Exported(fx.GraphModule(root, graph).eval(), plan)
    except (SyntaxError, RuntimeError, RecursionError, TypeError, ValueError) as error:
        raise MalformedFile(f"torch can't make a module of the graph: {error}") from None


def _built(
    plan: Plan, tensors: Callable[[str], torch.Tensor | None], device: torch.device
) -> tuple[nn.Module, fx.Graph]:
    builder, root = _Builder(device), nn.Module()
    for at, (given, name, constant) in enumerate(zip(plan.inputs, plan.bound, plan.constants, strict=True)):
        argument = plan.graph["inputs"][at]
        if given is not None:
            builder.define(given.name, builder.graph.placeholder(f"input_{at}"))
        elif name is not None:
            root.register_buffer(f"tensor_{at}", tensors(name))
            builder.lend(_names(argument)[0], builder.graph.create_node("get_attr", f"tensor_{at}"))
        else:
            for bound in _names(argument):
                builder.define(bound, constant)
    builder.nodes(plan.graph)
    builder.finish([builder.value(plan.graph["outputs"][at]) for at in plan.outputs], root)
    return root, builder.graph


@dataclass
class _Builder:
    """One graph being built. `lent` maps a value to the file's tensors that it may share memory with."""

    device: torch.device
    graph: fx.Graph = field(default_factory=fx.Graph)
    values: dict[str, Any] = field(default_factory=dict)
    lent: dict[Any, set[Any]] = field(default_factory=dict)
    written: set[Any] = field(default_factory=set)
    modules: dict[str, nn.Module] = field(default_factory=dict)

    def define(self, name: str, value: Any) -> None:
        if name in self.values:
            raise MalformedFile(f"the graph gives {name[:80]!r} twice")
        self.values[name] = value

    def lend(self, name: str, node: fx.Node) -> None:
        self.define(name, node)
        self.lent[node] = {node}

    def named(self, name: str) -> Any:
        if name not in self.values:
            raise MalformedFile(f"the graph uses {name[:80]!r} before it is there")
        return self.values[name]

    def finish(self, outputs: list[Any], root: nn.Module) -> None:
        """Copy, at its beginning, what the graph writes to and does not own."""
        self.graph.output(tuple(outputs))
        for node in self.written:
            with self.graph.inserting_after(node):
                copy = self.graph.call_function(torch.ops.aten.clone.default, (node,))
            node.replace_all_uses_with(copy, delete_user_cb=lambda user, copy=copy: user is not copy)
        for name, module in self.modules.items():
            root.add_module(name, module)

    def nodes(self, graph: Mapping[str, Any]) -> None:
        for node in graph["nodes"]:
            target = node["target"]
            if target in symbols.OPERATORS:
                made = self.graph.create_node(
                    "call_module", self.module(Sizes(target)), tuple(self.value(item["arg"]) for item in node["inputs"])
                )
                self.results(node, made, single=True)
            elif target.startswith(HIGHER):
                self.higher(node, target.removeprefix(HIGHER))
            else:
                self.call(node, target)

    def module(self, module: nn.Module) -> str:
        name = f"part_{len(self.modules)}"
        self.modules[name] = module
        return name

    def call(self, node: Mapping[str, Any], target: str) -> None:
        key = operator_of(target)
        if key is None:
            raise NotAllowed(f"the operator {target[:120]!r}")
        operator = operators.resolve(*key)
        args, kwargs = self.arguments(operator._schema, node)
        bare = key[0].partition("::")[2]
        if bare in operators.ZEROED:
            operator = getattr(torch.ops.aten, operators.ZEROED[bare]).default
            kwargs.pop("memory_format", None)
            args = args[:1] if bare == "empty_permuted" else args
        try:
            made = self.graph.call_function(operator, args, kwargs)
        except (TypeError, ValueError, RuntimeError) as error:
            raise MalformedFile(f"{target}: {error}") from None
        self.follow(operator._schema, node, made)
        returns = operator._schema.returns
        self.results(node, made, single=len(returns) == 1 and "List" not in str(returns[0].type))

    def arguments(self, schema: Any, node: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """By position as far as they are given so, by name after."""
        given = {item["name"]: self.value(item["arg"]) for item in node["inputs"]}
        known = {argument.name: argument for argument in schema.arguments}
        if strange := given.keys() - known.keys():
            raise MalformedFile(
                f"{node['target'][:120]} is given {', '.join(sorted(strange))[:120]}, which it does not take"
            )
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        positional = True
        for name, argument in known.items():
            if name not in given:
                positional = False
                if not argument.has_default_value():
                    raise MalformedFile(f"{node['target'][:120]} lacks {name}")
            else:
                value = given[name]
                if "Device" in str(argument.type):
                    value = None if value is None else self.device
                if positional and not argument.kwarg_only:
                    args.append(value)
                else:
                    kwargs[name] = value
        return tuple(args), kwargs

    def follow(self, schema: Any, node: Mapping[str, Any], made: fx.Node) -> None:
        """Note what is written to, and what an output may share memory with."""
        shares = any(item.alias_info is not None for item in schema.returns)
        aliased = {
            argument.name: argument.alias_info for argument in schema.arguments if argument.alias_info is not None
        }
        for item in node["inputs"]:
            if item["name"] not in aliased:
                continue
            for name in _names(item["arg"]):
                roots = self.lent.get(self.named(name), set())
                if aliased[item["name"]].is_write:
                    self.written |= roots
                if shares:
                    self.lent.setdefault(made, set()).update(roots)

    def results(self, node: Mapping[str, Any], made: fx.Node, *, single: bool) -> None:
        outputs = node["outputs"]
        if single and len(outputs) == 1 and _names(outputs[0]):
            self.define(_names(outputs[0])[0], made)
        elif len(outputs) == 1 and "as_tensors" in outputs[0]:
            self.unpack(outputs[0]["as_tensors"], made)
        else:
            self.unpack(outputs, made)

    def unpack(self, outputs: Sequence[Any], made: fx.Node) -> None:
        for at, output in enumerate(outputs):
            names = [output["name"]] if "name" in output else _names(output)
            if not names and not output.keys() & {"as_tensors", "as_sym_ints"}:
                continue  # None, or a number that was fixed when the program was exported
            item = self.graph.call_function(python.getitem, (made, at))
            self.lent[item] = self.lent.get(made, set())
            if output.keys() & {"as_tensors", "as_sym_ints"}:
                self.unpack(list(map(_wrapped, next(iter(output.values())))), item)
            else:
                self.define(names[0], item)

    def higher(self, node: Mapping[str, Any], kind: str) -> None:
        """An operator on graphs. One that only says whether gradients are wanted is put in place; of others, each graph
        is a module of its own."""
        given = [item["arg"] for item in node["inputs"]]
        graphs = [argument["as_graph"]["graph"] for argument in given if "as_graph" in argument]
        plain = [self.value(argument) for argument in given if "as_graph" not in argument]
        if kind == GRAD and len(graphs) == 1 and plain:
            self.place(graphs[0], plain[1:], _flat(node["outputs"]))
            return
        if kind == AUTOCAST and len(graphs) == 1 and len(plain) >= 4:
            part: nn.Module = Autocast(self.part(graphs[0]), self.device, plain[1], plain[2])
            plain = plain[4:]
        elif kind == IF and len(graphs) == 2 and len(plain) == 2 and isinstance(plain[1], list):
            part, plain = Branches(self.part(graphs[0]), self.part(graphs[1])), [plain[0], *plain[1]]
        else:
            raise MalformedFile(f"{kind} is given other arguments than it takes")
        self.unpack(_flat(node["outputs"]), self.graph.create_node("call_module", self.module(part), tuple(plain)))

    def place(self, graph: Mapping[str, Any], given: Sequence[Any], outputs: Sequence[Mapping[str, Any]]) -> None:
        """The nodes of a graph in the middle of this one, with names of their own."""
        if len(graph["inputs"]) != len(given) or len(graph["outputs"]) != len(outputs):
            raise MalformedFile("a graph in the graph is given other arguments than it takes")
        around, self.values = self.values, {}
        for argument, value in zip(graph["inputs"], given, strict=True):
            for name in _names(argument):
                self.define(name, value)
        self.nodes(graph)
        found = [self.value(output) for output in graph["outputs"]]
        self.values = around
        for output, value in zip(outputs, found, strict=True):
            for name in [output["name"]] if "name" in output else _names(output):
                self.define(name, value)

    def part(self, graph: Mapping[str, Any]) -> fx.GraphModule:
        inner = _Builder(self.device)
        for at, argument in enumerate(graph["inputs"]):
            placeholder = inner.graph.placeholder(f"input_{at}")
            for name in _names(argument):
                inner.lend(name, placeholder)  # which the graph around it owns
        inner.nodes(graph)
        if inner.written:
            raise NotAllowed("a graph in the graph that writes to what it is given")
        root = nn.Module()
        inner.finish([inner.value(output) for output in graph["outputs"]], root)
        return fx.GraphModule(root, inner.graph)

    def value(self, argument: Mapping[str, Any]) -> Any:
        """An argument as the operator takes it."""
        ((form, value),) = argument.items()
        if form in ("as_tensor", "as_sym_int", "as_sym_float", "as_sym_bool"):
            return self.one(value)
        if form in ("as_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return [self.one(item) for item in value]
        if form == "as_optional_tensors":
            return [None if "as_none" in item else self.one(item["as_tensor"]) for item in value]
        if form == "as_optional_tensor":
            return None if "as_none" in value else self.one(value["as_tensor"])
        if form in _TABLES:
            table: Mapping[int, Any] = _TABLES[form]
            if value not in table:
                raise MalformedFile(f"{form} is {value}, which torch {torch.__version__} does not have here")
            return table[value]
        if form == "as_complex":
            return complex(number(value["real"]), number(value["imag"]))
        if form in _LITERALS:
            return [number(item) for item in value] if isinstance(value, list) else number(value)
        if form == "as_none":
            return None
        if form == "as_device":
            return self.device
        raise NotAllowed(f"an argument given {form}")

    def one(self, value: Mapping[str, Any]) -> Any:
        if "name" in value:
            return self.named(value["name"])
        if "as_name" in value:
            return self.named(value["as_name"])
        return number(next(iter(value.values())))


def _names(argument: Mapping[str, Any]) -> list[str]:
    """The values that an argument names."""
    ((form, value),) = argument.items()
    items = value if isinstance(value, list) else [value]
    found = []
    for item in items:
        if isinstance(item, dict):
            item = item.get("as_tensor", item) if form.startswith("as_optional") else item
            name = item.get("name", item.get("as_name"))
            if isinstance(name, str) and form not in ("as_graph", "as_custom_obj"):
                found.append(name)
    return found


def _flat(outputs: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    only = outputs[0] if len(outputs) == 1 else {}
    found: Sequence[Mapping[str, Any]] = only.get("as_tensors", outputs)
    return found


def _wrapped(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"as_sym_int": item} if "as_name" in item or "as_int" in item else item
