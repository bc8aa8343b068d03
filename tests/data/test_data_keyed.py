"""Randomness keyed by the sample: repeatable, and independent between keys and purposes."""

import subprocess
import sys

import numpy as np
import pytest

from vlpretrain.data.keyed import generator, stable_hash

KEY = (0, 0, "a.tar/0001", "crop")


def test_the_same_key_gives_the_same_numbers():
    assert np.array_equal(generator(*KEY).random(5), generator(*KEY).random(5))


@pytest.mark.parametrize(
    "other",
    [
        (1, 0, "a.tar/0001", "crop"),
        (0, 1, "a.tar/0001", "crop"),
        (0, 0, "a.tar/0002", "crop"),
        (0, 0, "a.tar/0001", "flip"),
    ],
)
def test_every_part_of_the_key_matters(other):
    assert generator(*KEY).random() != generator(*other).random()


def test_draws_of_neighbouring_keys_are_even_and_uncorrelated():
    draws = np.array([generator(0, 0, str(key), "flip").random() for key in range(2000)])
    assert abs(draws.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.1


def test_a_hash_is_the_same_in_another_process_and_fits_a_signed_64_bit_number():
    code = "from vlpretrain.data.keyed import stable_hash; print(stable_hash('a cat'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == stable_hash("a cat") == stable_hash(b"a cat")
    assert all(0 <= stable_hash(str(text)) < 2**63 for text in range(1000))
