"""The families as their authors wrote them, in our words: what the zoo's speed is measured against."""
