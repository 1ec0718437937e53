"""The dashboard before the eyes of somebody who watches: a test says, line by line, what it wants to know.

    screen          what is on the screen now, without scrolling, and what a screen reader has to say of the page
    picture FILE    what it looks like

Each line is answered by one line of JSON. The end of the input is the end."""

import argparse
import json
import sys

from browser import Browser

# A text is on the screen if its first and its last line are: not clipped, not covered, not scrolled away.
ON_SCREEN = """(() => {
  const texts = [], range = document.createRange();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("[aria-hidden=true], script, style")) continue;
    range.selectNodeContents(node);
    const lines = [...range.getClientRects()].filter((line) => line.width > 0);
    const isSeen = (line) => {
      const found = line && document.elementFromPoint(line.left + line.width / 2, line.top + line.height / 2);
      return found && (found === parent || parent.contains(found) || found.contains(parent));
    };
    if (isSeen(lines[0]) && isSeen(lines[lines.length - 1])) texts.push(node.data.trim());
  }
  return texts.join(" ");
})()"""


def aloud(browser):
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    texts = [node["name"]["value"] for node in tree
             if not node["ignored"] and node["role"]["value"] == "StaticText" and node.get("name", {}).get("value")]
    return " ".join(" ".join(texts).split())


def main():
    arguments = argparse.ArgumentParser()
    for name in ("chromium", "url"):
        arguments.add_argument(f"--{name}", required=True)
    arguments.add_argument("--width", type=int, default=1440)
    arguments.add_argument("--height", type=int, default=900)
    options = arguments.parse_args()
    browser = Browser(options.chromium)
    try:
        browser.look(options.width, options.height)
        browser.open(options.url)
        browser.until("the first event", "document.getElementById('live-text').innerText === 'live'")
        print(json.dumps({"url": options.url}), flush=True)
        for line in sys.stdin:
            word, _, rest = line.strip().partition(" ")
            if word == "screen":
                answer = {"screen": " ".join(browser.run(ON_SCREEN).split()), "aloud": aloud(browser), "console": browser.console}
            elif word == "picture":
                browser.picture(rest)
                answer = {"picture": rest}
            else:
                raise ValueError(f"expected screen or picture, found {line!r}")
            print(json.dumps(answer), flush=True)
    finally:
        browser.close()


if __name__ == "__main__":
    main()
