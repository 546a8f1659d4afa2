"""The features of a picture become one vector."""

import numpy as np
import pytest

from pipeline.fuse.pooled_features import learned, pooled_features


def test_pooled_features_do_not_depend_on_the_order_and_are_zero_of_few_features():
    rng = np.random.default_rng(1)
    features = np.abs(rng.normal(size=(300, 128))).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    words = learned(features, 64)
    assert words is not None and words.shape == (64, 128) and learned(features[:20], 64) is None
    pooled = pooled_features(features[:80], words)
    np.testing.assert_allclose(pooled_features(features[79::-1], words), pooled, atol=1e-5)
    assert np.linalg.norm(pooled) == pytest.approx(1, abs=1e-5)
    assert not pooled_features(features[:9], words).any()
