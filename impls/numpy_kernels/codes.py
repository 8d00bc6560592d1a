"""Codes of less than a byte: one uint8 each outside of a cache; inside it least significant bits first."""

import numpy as np


def expand(words, bits):
    """Every code of some words, uint8: [..., n] becomes [..., n * codes of a word]."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    codes = octets[..., None] >> _shifts(bits) & (2**bits - 1)
    return codes.reshape(*octets.shape[:-1], octets.shape[-1] * codes.shape[-1])


def pack(codes, bits, word):
    """The words of a dtype that hold these codes; the inverse of expand."""
    parts = codes.reshape(*codes.shape[:-1], -1, 8 // bits)
    return np.bitwise_or.reduce(parts << _shifts(bits), axis=-1).view(word)


def _shifts(bits):
    return np.arange(0, 8, bits, dtype=np.uint8)


class Codes:
    """Packed codes, to be indexed as the array of them would be.

    words   where they lie: the page is the first axis, and the last one is in units of words
    bits    of one code
    see     from the codes, their last axis in units of codes, to [page, slot, *token axes] of the same storage
    """

    def __init__(self, words, bits, see):
        self.words, self.bits, self.see = words, bits, see
        per_word = 8 * words.itemsize // bits
        self.shape = see(np.empty((*words.shape[:-1], words.shape[-1] * per_word), np.uint8)).shape

    def __getitem__(self, pages):
        return self.see(expand(self.words[pages], self.bits))[:]

    def __setitem__(self, at, rows):
        codes = expand(self.words, self.bits)
        self.see(codes)[at] = rows
        self.words[...] = pack(codes, self.bits, self.words.dtype)
