"""An encoding is named by what it was made of, where that is known, and by its bytes elsewhere."""

import torch
from wan_s2v_pack.wan_s2v_model.origin import digest, identity_of, made_of, origin_of


def test_other_bits_of_the_same_input_are_the_same():
    ours, theirs = made_of(torch.ones(3), "text 'a'"), made_of(torch.full((3,), 1 + 1e-7), "text 'a'")
    assert identity_of(ours) == identity_of(theirs) != identity_of(made_of(torch.ones(3), "text 'b'"))


def test_without_an_origin_the_bytes_count():
    assert identity_of(torch.ones(3)) == digest(torch.ones(3))
    assert identity_of(torch.ones(3), torch.zeros(3)) == digest(torch.ones(3), torch.zeros(3))
    half = [identity_of(made_of(torch.rand(3), "a"), torch.full((3,), value)) for value in (1.0, 1.0, 2.0)]
    assert half[0] == half[1] != half[2]
    assert identity_of() == ""


def test_a_changed_encoding_has_no_origin():
    tensor = made_of(torch.ones(3), "a")
    assert origin_of(tensor) == "a"
    assert [origin_of(changed) for changed in (tensor * 2, tensor.clone(), tensor[:2], tensor.half())] == [""] * 4


def test_the_order_counts():
    first, second = made_of(torch.ones(3), "a"), made_of(torch.ones(3), "b")
    assert identity_of(first, second) != identity_of(second, first)
