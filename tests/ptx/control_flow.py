"""Finds where the lanes of a warp meet again after a branch: at its immediate postdominator."""

from __future__ import annotations


def meeting_points(count: int, branches: dict[int, int], conditional: set[int], exits: set[int]) -> dict[int, int]:
    """Returns {conditional branch: the instruction where both ways meet}. `count`, the end, if they never meet.

    Args:
        count: number of instructions.
        branches: {branch: its target}.
        conditional: branches that some lanes may not take.
        exits: instructions after which nothing runs.
    """
    starts = sorted({0, count, *branches.values(), *(k + 1 for k in (*branches, *exits))} - {count + 1})
    number = {start: block for block, start in enumerate(starts)}
    end = number[count]
    followers: list[list[int]] = []
    for block in range(end):
        last = starts[block + 1] - 1
        if last in exits:
            followers.append([end])
        elif last in branches:
            followers.append([number[branches[last]], *([block + 1] if last in conditional else [])])
        else:
            followers.append([block + 1])
    # Sets of blocks are bits of an integer. What postdominates a block postdominates all that follow it.
    postdominators = [(1 << (end + 1)) - 1] * end + [1 << end]
    changed = True
    while changed:
        changed = False
        for block in reversed(range(end)):
            common = -1
            for follower in followers[block]:
                common &= postdominators[follower]
            if common | 1 << block != postdominators[block]:
                postdominators[block] = common | 1 << block
                changed = True
    meetings = {}
    for block in range(end):
        last = starts[block + 1] - 1
        if last in conditional:
            others = [k for k in range(end + 1) if postdominators[block] >> k & 1 and k != block]
            # The nearest of them is postdominated by all others.
            meetings[last] = starts[max(others, key=lambda k: postdominators[k].bit_count())]
    return meetings
