from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from pymultiling.data.batches import DOCUMENTS_SORTED, make_batches


@given(st.lists(st.lists(st.integers(5, 9), min_size=1, max_size=20), max_size=40), st.integers(1, 60))
def test_every_document_once_within_the_budget(documents, budget):
    seen = {}
    for batch in make_batches(documents, budget, pad=3):
        assert batch.input_ids.shape == batch.attention_mask.shape
        assert batch.input_ids.numel() <= budget or len(batch.order) == 1
        assert (batch.input_ids[batch.attention_mask == 0] == 3).all()
        assert batch.attention_mask[0].all()  # the longest is not padded
        assert batch.tokens == sum(len(documents[place]) for place in batch.order)
        for place, ids, mask in zip(batch.order, batch.input_ids, batch.attention_mask):
            seen[place] = ids[: mask.sum()].tolist()
            assert mask.diff().le(0).all()  # padding is on the right
    assert seen == dict(enumerate(documents))


def test_documents_of_like_length_stand_together():
    lengths = [batch.attention_mask.sum(1).tolist() for batch in make_batches([[1] * n for n in (2, 9, 3, 8, 1)], 18)]
    assert lengths == [[9, 8], [3, 2, 1]]


def test_read_as_asked_for():
    taken = count()
    endless = ([next(taken)] for _ in count())
    next(make_batches(endless, 8))
    assert next(taken) == DOCUMENTS_SORTED


def test_padded_on_the_left_with_room_for_more():
    (one, other) = make_batches([[1, 2], [3, 4, 5], [6]], 10, pad=9, left=True, extra_tokens=2)
    assert one.input_ids.tolist() == [[3, 4, 5], [9, 1, 2]] and one.attention_mask.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert other.input_ids.tolist() == [[6]] and one.order + other.order == [1, 0, 2]
