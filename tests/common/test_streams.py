import numpy as np

from gazal.common.streams import Stream, generator


def test_a_generator_is_numpys_of_seed_and_number():
    assert generator(3, Stream.BASE_CORPUS, 2).random() == np.random.default_rng([3, 77, 2]).random()


def test_streams_have_numbers_of_their_own():
    shared = {Stream.MINHASH, Stream.SOURCE_SAMPLE}
    assert len(shared) == 1 and len(Stream) == len(Stream.__members__) - 1
