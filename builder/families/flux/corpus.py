"""Captions that the tokenizers of a tiny checkpoint are trained on, written for this purpose."""

_SUBJECTS = (
    "a red fox", "an old lighthouse", "two children", "a cup of coffee", "the astronaut",
    "a wooden boat", "three white horses", "a small robot", "the city", "an empty street",
    "a glass house", "a sleeping cat", "the mountain", "a bowl of fruit", "a green dragon",
    "an orange balloon", "a stone bridge", "the library", "a blue bicycle", "some sunflowers",
)  # fmt: skip
_ACTIONS = (
    "standing in the snow", "beside a quiet lake", "under a starry sky", "on a rainy evening",
    "in the middle of a forest", "floating over the sea", "lit by warm candle light",
    "in front of a brick wall", "during a thunderstorm", "at sunrise", "reflected in water",
    "with long shadows",
)  # fmt: skip
_STYLES = (
    "oil painting", "35mm photograph", "watercolor sketch", "highly detailed digital art",
    "black and white, film grain", "pencil drawing", "isometric illustration", "close-up portrait",
    "wide angle, soft focus", "pixel art", "studio lighting, 4k", "minimalist poster",
)  # fmt: skip
_EXTRA = (
    "Don't forget: it's the artist's third attempt, and they've said we'll see!",
    "A sign that says \"open 24/7\" (in neon), #1 on 5th Avenue & Main St.",
    "Ein Fuchs steht im Schnee; un café près de la forêt; ¿dónde está el perro?",
    "0 1 2 3 4 5 6 7 8 9 10 100 1000, +50% = $75.00 / 3 * 2 @ night ~ <sky> [x] {y} | _z_ ^ \\ `",
    "Portrait of Zoë, Jörg, Ángel, Çelik and Łukasz, quietly waxing vintage jukeboxes.",
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG. The quick brown fox jumps over a lazy dog.",
)  # fmt: skip


def captions() -> list[str]:
    """About 500 captions, the same ones in the same order every time."""
    combined = [
        f"{subject} {action}, {_STYLES[(i + j) % len(_STYLES)]}"
        for i, subject in enumerate(_SUBJECTS)
        for j, action in enumerate(_ACTIONS)
    ]
    return [*combined, *(caption.capitalize() + "." for caption in combined), *_EXTRA]
