"""Writes the objects on stdin, one line of JSON each, with PyYAML in a style that follows from the line's seed."""
import json
import random
import sys

import yaml


class Dumper(yaml.Dumper):
    """Gives each text a style by chance. The emitter falls back to another one where it has to."""

    chance = random.Random(0)
    styles = [None]
    flows = [False]
    share = False

    def ignore_aliases(self, data):
        return not self.share or super().ignore_aliases(data)


def text(dumper, data):
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=dumper.chance.choice(dumper.styles))


def mapping(dumper, data):
    return dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=dumper.chance.choice(dumper.flows))


def sequence(dumper, data):
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=dumper.chance.choice(dumper.flows))


Dumper.add_representer(str, text)
Dumper.add_representer(dict, mapping)
Dumper.add_representer(list, sequence)


def shared(value, known):
    """Makes one object of equal ones, so that the emitter writes anchors and aliases."""
    if isinstance(value, dict):
        value = {key: shared(child, known) for key, child in value.items()}
    elif isinstance(value, list):
        value = [shared(child, known) for child in value]
    else:
        return value
    return known.setdefault(json.dumps(value, sort_keys=True), value) if value else value


for line in sys.stdin:
    request = json.loads(line)
    chance = random.Random(request["seed"])
    Dumper.chance = chance
    Dumper.styles = chance.choice([[None], ["'"], ['"'], ["|"], [">"], [None, "'", '"', "|", ">"]])
    Dumper.flows = chance.choice([[False], [False], [None], [True], [False, False, True]])
    Dumper.share = chance.random() < 0.2
    value = shared(request["object"], {}) if Dumper.share else request["object"]
    written = yaml.dump(
        value,
        Dumper=Dumper,
        default_flow_style=None,
        indent=chance.randint(2, 8),
        width=chance.choice([20, 40, 80, 1 << 20]),
        allow_unicode=chance.random() < 0.5,
        line_break=chance.choice(["\n", "\n", "\r\n"]),
        explicit_start=chance.random() < 0.2,
        explicit_end=chance.random() < 0.2,
        sort_keys=False,
        canonical=chance.random() < 0.05,
    )
    print(json.dumps(written))
