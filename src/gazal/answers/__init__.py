"""What a completion answers: one extractor for rewards and scores, and four other projects' readings to compare with.

In: a completion and its item's options. Out: a letter or none, with the reason; it never guesses.
"""
