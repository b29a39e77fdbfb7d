"""What the operands of each opcode are, and the names by which the interpreter knows it.

A shape has the results before the colon and the sources after it. T is the type at the end of the opcode, D the one
before it, W twice as wide as T, I an integer of 32 bits, P a predicate. The longest prefix decides.
"""

SHAPES = {
    "T:T": ("neg", "abs", "not", "brev", "mov", "rcp", "sqrt", "rsqrt", "ex2", "lg2"),
    "I:T": ("popc", "clz", "bfind"),
    "T:TT": ("add", "sub", "mul", "div", "rem", "min", "max", "and", "or", "xor"),
    "T:TTT": ("mad", "fma"),
    "W:TT": ("mul.wide",),
    "W:TTW": ("mad.wide",),
    "T:TI": ("shl", "shr", "redux.sync"),
    "T:TII": ("bfe",),
    "T:TTII": ("bfi",),
    "T:TTI": ("shf",),
    "T:TTTI": ("lop3",),
    "I:III": ("prmt",),
    "P:TT": ("setp",),
    "T:TTP": ("selp",),
    "D:T": ("cvt",),
    "D:TT": ("cvt.rn.bf16x2", "cvt.rn.f16x2"),
    "I:IIII": ("shfl.sync",),
    "I:PI": ("vote.sync.ballot",),
    ":I": ("bar.warp.sync",),
}
SHAPE_OF = {prefix: shape for shape, prefixes in SHAPES.items() for prefix in prefixes}

# Modifiers of loads and stores that change neither values nor order: caches, scopes, and how often data are used again.
IGNORED = {
    "weak",
    "relaxed",
    "volatile",
    "cg",
    "ca",
    "cs",
    "lu",
    "cv",
    "nc",
    "wb",
    "wt",
    "gpu",
    "sys",
    "cta",
    "v2",
    "v4",
}
IGNORED |= {f"L1::{use}" for use in ("evict_first", "evict_last", "evict_normal", "no_allocate")}
IGNORED |= {"L2::128B", "L2::256B", "L2::64B"}

# The order is that of read_special in moves.cpp.
SPECIAL = (
    *("%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z"),
    *("%ntid.x", "%warpid", "%tid.y", "%ntid.y", "%tid.x", "%laneid"),
)

# Opcodes whose operands are looked at by nobody.
WITHOUT_OPERANDS = {
    "membar.gl": "fence",
    "membar.sys": "fence",
    "fence.acq_rel.gpu": "fence",
    "fence.sc.gpu": "fence",
    "membar.cta": "nothing",
    "fence.proxy.async": "fence.proxy.async",
    "fence.proxy.async.shared::cta": "fence.proxy.async",
    "cp.async.commit_group": "cp.async.commit_group",
    "cp.async.wait_all": "cp.async.wait_all",
    "wgmma.fence.sync.aligned": "wgmma.fence",
    "wgmma.commit_group.sync.aligned": "wgmma.commit_group",
}
BARRIERS = {"bar.sync", "barrier.sync", "barrier.sync.aligned", "bar.sync.aligned", "barrier.cta.sync.aligned"}


def shape_of(opcode: str) -> tuple[str, str] | None:
    """Returns the shapes of the results and of the sources, or None if this table does not have the opcode."""
    parts = opcode.split(".")
    for length in range(len(parts), 0, -1):
        shape = SHAPE_OF.get(".".join(parts[:length]))
        if shape is not None:
            results, _, sources = shape.partition(":")
            return results, sources
    return None
