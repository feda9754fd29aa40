// Writes the objects on stdin, one line of JSON each, with js-yaml in a style that follows from the line's seed.
"use strict";
const yaml = require("js-yaml");
const readline = require("readline");

// random is mulberry32: a generator that a seed repeats.
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// shared makes one object of equal ones, so that anchors and aliases are written.
function shared(value, known) {
  if (value === null || typeof value !== "object") return value;
  const copy = Array.isArray(value)
    ? value.map((child) => shared(child, known))
    : Object.fromEntries(Object.entries(value).map(([key, child]) => [key, shared(child, known)]));
  const text = JSON.stringify(copy);
  if (!known.has(text)) known.set(text, copy);
  return known.get(text);
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { seed, object } = JSON.parse(line);
  const chance = random(seed);
  const one = (...of) => of[Math.floor(chance() * of.length)];
  const share = chance() < 0.2;
  const written = yaml.dump(share ? shared(object, new Map()) : object, {
    indent: 2 + Math.floor(chance() * 7),
    noArrayIndent: one(true, false),
    flowLevel: one(-1, -1, 0, 2, 4, 6),
    lineWidth: one(20, 40, 80, -1),
    noRefs: !share,
    quotingType: one("'", '"'),
    forceQuotes: one(true, false),
    noCompatMode: one(true, false),
    condenseFlow: one(true, false),
    sortKeys: one(true, false),
  });
  console.log(JSON.stringify(written));
});
