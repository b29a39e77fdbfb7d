from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from pymultiling.data.batches import DOCUMENTS_SORTED, make_batches


@given(st.lists(st.lists(st.integers(5, 9), min_size=1, max_size=20), max_size=40), st.integers(1, 60))
def test_batches_have_every_document_once_within_the_budget(documents, budget):
    unpadded = {}
    for batch in make_batches(documents, budget, pad=3):
        assert batch.input_ids.shape == batch.attention_mask.shape
        assert batch.input_ids.numel() <= budget or len(batch.order) == 1
        assert (batch.input_ids[batch.attention_mask == 0] == 3).all()
        assert batch.attention_mask[0].all()  # the longest document is not padded
        assert batch.tokens == sum(len(documents[index]) for index in batch.order)
        for index, ids, mask in zip(batch.order, batch.input_ids, batch.attention_mask):
            unpadded[index] = ids[: mask.sum()].tolist()
            assert mask.diff().le(0).all()  # padding is on the right
    assert unpadded == dict(enumerate(documents))


def test_documents_of_similar_length_are_in_one_batch():
    lengths = [batch.attention_mask.sum(1).tolist() for batch in make_batches([[1] * n for n in (2, 9, 3, 8, 1)], 18)]
    assert lengths == [[9, 8], [3, 2, 1]]


def test_the_first_batch_needs_one_window_of_documents():
    numbers = count()
    endless = ([next(numbers)] for _ in count())
    next(make_batches(endless, 8))
    assert next(numbers) == DOCUMENTS_SORTED


def test_pads_on_the_left_and_counts_extra_tokens():
    (first, second) = make_batches([[1, 2], [3, 4, 5], [6]], 10, pad=9, left=True, extra_tokens=2)
    assert first.input_ids.tolist() == [[3, 4, 5], [9, 1, 2]] and first.attention_mask.tolist() == [
        [1, 1, 1],
        [0, 1, 1],
    ]
    assert second.input_ids.tolist() == [[6]] and first.order + second.order == [1, 0, 2]
