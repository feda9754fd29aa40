# Writes the objects on stdin, one line of JSON each, with Ruby's Psych in a style that follows from the line's seed.
require "json"
require "psych"

def dress(node, chance, scalars, flow)
  case node
  when Psych::Nodes::Scalar
    node.style = scalars[chance.rand(scalars.size)] if node.quoted || node.style != Psych::Nodes::Scalar::PLAIN
  when Psych::Nodes::Mapping
    node.style = Psych::Nodes::Mapping::FLOW if chance.rand < flow
  when Psych::Nodes::Sequence
    node.style = Psych::Nodes::Sequence::FLOW if chance.rand < flow
  end
  (node.children || []).each { |child| dress(child, chance, scalars, flow) }
end

all = [Psych::Nodes::Scalar::SINGLE_QUOTED, Psych::Nodes::Scalar::DOUBLE_QUOTED, Psych::Nodes::Scalar::LITERAL, Psych::Nodes::Scalar::FOLDED]
$stdin.each_line do |line|
  request = JSON.parse(line)
  chance = Random.new(request["seed"])
  options = { indentation: 2 + chance.rand(7), line_width: [20, 40, 80, -1][chance.rand(4)] }
  written =
    if chance.rand < 0.3
      Psych.dump(request["object"], **options)
    else
      tree = Psych.parse_stream(Psych.dump(request["object"]))
      dress(tree, chance, chance.rand < 0.5 ? all : [all[chance.rand(all.size)]], [0, 0, 0.2, 1][chance.rand(4)])
      tree.to_yaml(nil, **options)
    end
  puts JSON.generate(written)
end
