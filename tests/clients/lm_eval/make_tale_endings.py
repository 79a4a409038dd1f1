#!/usr/bin/env python3
"""Writes tale_endings.jsonl: the beginnings of paragraphs of demo/heldout.txt, which the demo model
was not trained on, each with four ways to go on, of which three are from other paragraphs."""

import json
import random
from pathlib import Path

HERE = Path(__file__).resolve().parent
HELD_OUT = HERE.parents[2] / "demo" / "heldout.txt"
N_QUESTIONS = 100
N_CONTEXT_WORDS = 30
N_ENDING_WORDS = 6


def main():
    dice = random.Random(1)
    paragraphs = [words for words in map(str.split, HELD_OUT.read_text().split("\n\n"))
                  if len(words) >= N_CONTEXT_WORDS + N_ENDING_WORDS]
    asked = dice.sample(range(len(paragraphs)), N_QUESTIONS)
    endings = [" ".join(words[N_CONTEXT_WORDS:N_CONTEXT_WORDS + N_ENDING_WORDS])
               for words in paragraphs]
    with (HERE / "tale_endings.jsonl").open("w") as file:
        for index in asked:
            others = dice.sample([i for i in range(len(paragraphs)) if i != index], 3)
            answer = dice.randrange(4)
            choices = [endings[i] for i in others]
            choices.insert(answer, endings[index])
            question = {"context": " ".join(paragraphs[index][:N_CONTEXT_WORDS]),
                        "choices": choices, "answer": answer}
            file.write(json.dumps(question, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
