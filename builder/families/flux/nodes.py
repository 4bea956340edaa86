"""Writing an ONNX graph node by node, as expressions."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

OPSET = 20
CONTRIB = "ai.onnx.contrib"
"""Domain of the operators of onnxruntime-extensions."""

MICROSOFT = "com.microsoft"
"""Domain of the operators that ONNX Runtime itself adds to ONNX."""


@dataclass(slots=True)
class Nodes:
    """Nodes and constants of a graph under construction; values are known by their names."""

    nodes: "list[onnx.NodeProto]" = field(default_factory=list)
    _constants: "dict[str, onnx.TensorProto]" = field(default_factory=dict)
    _known: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def constant(self, value: Any, dtype: Any) -> str:
        """A constant; equal ones are kept once."""
        import numpy as np
        from onnx import numpy_helper

        array = np.asarray(value, dtype)
        strings = array.dtype == object  # whose bytes are addresses
        content = repr(array.tolist()).encode() if strings else array.tobytes()
        key = (array.dtype.str, array.shape, content)
        if key not in self._known:
            name = self._known[key] = f"constant_{len(self._known)}"
            self._constants[name] = numpy_helper.from_array(array, name)
        return self._known[key]

    def add(self, operator: str, *inputs: str, name: str = "", output: str = "", **kw: Any) -> str:
        """A node with one output; gives the name of that output.

        Args:
            name: Name of the node; ONNX Runtime shows it when the node fails.
            output: Name of the output; a new one by default.
        """
        return self.add_many(operator, inputs, (output,), name=name, **kw)[0]

    def add_many(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **kw: Any
    ) -> list[str]:
        """A node with several outputs; an empty output gets a new name."""
        from onnx import helper

        names = [name or f"value_{next(self._numbers)}" for name in outputs]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **kw))
        return names

    def require(self, condition: str, value: str, message: str) -> str:
        """`value` (INT64), if the condition (BOOL, scalar) holds; else the request fails.

        ONNX has no assertion. This is a Gather that is out of bounds if the condition fails; the
        message is the node's name, which ONNX Runtime puts into the error.
        """
        import numpy as np
        from onnx import TensorProto

        failed = self.add("Cast", self.add("Not", condition), to=TensorProto.INT64)
        zero = self.add("Gather", self.constant([0], np.int64), failed, name=message)
        return self.add("Add", value, zero)

    def model(
        self,
        name: str,
        inputs: "Sequence[onnx.ValueInfoProto]",
        outputs: "Sequence[onnx.ValueInfoProto]",
    ) -> "onnx.ModelProto":
        """The finished model; its IR version is the oldest one that has the operators."""
        from onnx import helper

        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self._constants.values()))
        opset = helper.make_opsetid("", OPSET)
        ir_version = helper.find_min_ir_version_for([opset])
        imports = [opset]
        domains = sorted({node.domain for node in self.nodes} - {""})
        imports += [helper.make_opsetid(domain, 1) for domain in domains]
        return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
