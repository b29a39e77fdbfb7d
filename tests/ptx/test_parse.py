"""The parser of PTX, on texts with all that compilers write."""

import pytest

from tests.ptx.encode import UnknownInstruction, encode
from tests.ptx.parse import Parameter, parse
from tests.ptx.registers import restore, shorten

TEXT = """
.version 9.0
.target sm_90a
.extern .shared .align 16 .b8 dynamic[];
.shared .align 8 .b8 fixed[12];
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 kernel_param_0,
	.param .f32 kernel_param_1, .param .align 8 .b8 kernel_param_2[24]
)
.reqntid 128
{
	.reg .pred 	%p<3>;
	.reg .b32 	%r<9>;
	.loc	1 28 0                          // columns.py:28:0
$L__BB0_1: // a label; with a semicolon
	@!%p1 bra 	$L__BB0_2;
	{ .reg .b64 %r1; mov.b64 %r1, {%r2, %r3}; }
	mov.b32 %r1, dynamic;
	/* over
	lines */ mov.b32 %r1, fixed; st.shared.v2.b32 [%r1 + -8], { %r2, %r3 };
$L__BB0_2:
	ret;
}
"""
RET_LINE = TEXT[: TEXT.index("ret;")].count("\n") + 1


def test_statements_labels_guards_and_lines():
    kernel = parse(TEXT)
    bra, pack, _, _, store, ret = kernel.instructions
    assert (bra.opcode, bra.operands, bra.guard, bra.negated) == ("bra", ("$L__BB0_2",), "%p1", True)
    assert pack.operands == ("%r1", "{%r2, %r3}")
    assert store.operands == ("[%r1 + -8]", "{ %r2, %r3 }")
    assert kernel.labels == {"$L__BB0_1": 0, "$L__BB0_2": 5}
    lines = TEXT.splitlines()
    assert [lines[x.line - 1].split()[0] for x in (bra, pack, store, ret)] == ["@!%p1", "{", "lines", "ret;"]


def test_parameters_and_shared_variables():
    kernel = parse(TEXT)
    sizes = {"kernel_param_0": 8, "kernel_param_1": 4, "kernel_param_2": 24}
    assert kernel.parameters == [Parameter(name, size) for name, size in sizes.items()]
    assert (kernel.shared, kernel.shared_size) == ({"fixed": 0, "dynamic": 16}, 16)
    program = encode(kernel)
    assert program.parameters == {"kernel_param_0": 0, "kernel_param_1": 8, "kernel_param_2": 16}


def test_an_inner_block_has_registers_of_its_own():
    _, pack, outer, *_ = encode(parse(TEXT)).code
    assert pack.results != outer.results


def test_lanes_meet_again_where_both_ways_lead():
    branch, *_, ret = encode(parse(TEXT)).code
    assert branch.meeting == branch.target == 5 and ret.opcode == "nothing"


@pytest.mark.parametrize("statement", ["frob.b32 %r1, %r2", "ld.local.b32 %r1, [%r2]", "add.s64 %r1, %r2, %r3"])
def test_what_the_interpreter_lacks_is_an_error_with_its_line(statement):
    """The last one has registers that are too narrow for it."""
    with pytest.raises(UnknownInstruction, match=f"line {RET_LINE}: {statement.split()[0]}"):
        encode(parse(TEXT.replace("ret;", f"{statement};")))


def test_text_that_is_no_statement_is_an_error_with_its_line():
    with pytest.raises(ValueError, match=f"line {RET_LINE}: this is no PTX statement"):
        parse(TEXT.replace("ret;", "ret"))


def test_a_shortened_text_is_restored_with_registers_in_the_order_of_their_appearance():
    text = "add.s32 %r7, %r7, %r2; mov.b64 %rd7, {%r2, %r7}; mov.u32 %r5, %tid.x; st.shared.b32 [%r2+4], %r5;"
    short = "add.s32 %r0, %r1, %r0; mov.b64 %rd0, {%r1, %r2}; mov.u32 %r0, %tid.x; st.shared.b32 [%r2+4], %r1;"
    restored = "add.s32 %r0, %r0, %r1; mov.b64 %rd0, {%r1, %r0}; mov.u32 %r2, %tid.x; st.shared.b32 [%r1+4], %r2;"
    assert shorten(text) == short and restore(short) == restored and shorten(restored) == short
