package convert

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// The editor applies a JSON patch to a document's text. It changes only the bytes of what
// the patch adds and removes:
//
//	text, err := newEditor(source).apply(operations)
//
// It follows aliases and merge keys: a handler that two containers share is removed once.
// The editor does not decide whether the edited text means what it should; kubectl's reader
// does, in document.verify. If the editor is wrong in a case that it does not know, the
// document is rewritten from its nodes instead.
type editor struct {
	*source
	// changes to mappings, in the order of the operations.
	changes []*change
	of      map[*value]*change
	// indent of the document's first nested mapping.
	indent int
	// shared is the first alias or merge key on the path to a change.
	shared *value
}

func newEditor(s *source) *editor {
	const common = 2
	e := &editor{source: s, of: map[*value]*change{}, indent: common}
	if by := e.firstIndent(deref(s.root)); by > 0 {
		e.indent = by
	}
	return e
}

// change is what the operations do to one mapping of the text.
type change struct {
	mapping  *value
	removed  map[int]bool // entries
	replaced map[int]*fresh
	added    []addition
}

// fresh is a new value: a text if isText is set, otherwise a mapping.
type fresh struct {
	text    string
	isText  bool
	entries []addition
}

// addition is a new entry of a mapping.
type addition struct {
	key   string
	value *fresh
}

// textEdit replaces some bytes.
type textEdit struct {
	start, end int
	text       string
}

// apply returns the text after the operations.
func (e *editor) apply(operations []Operation) ([]byte, error) {
	for _, operation := range operations {
		if err := e.plan(operation); err != nil {
			return nil, err
		}
	}
	var edits []textEdit
	for _, c := range e.changes {
		of := e.blockEdits
		if c.mapping.flow {
			of = e.flowEdits
		}
		more, err := of(c)
		if err != nil {
			return nil, err
		}
		edits = append(edits, more...)
	}
	return applyEdits(e.text, edits)
}

// applyEdits returns the edited text. Edits must not overlap; those at one place keep their
// order.
func applyEdits(text []byte, edits []textEdit) ([]byte, error) {
	slices.SortStableFunc(edits, func(a, b textEdit) int { return cmp.Compare(a.start, b.start) })
	var result bytes.Buffer
	at := 0
	for _, e := range edits {
		if e.start < at {
			return nil, errors.New("two changes are at one place")
		}
		result.Write(text[at:e.start])
		result.WriteString(e.text)
		at = e.end
	}
	result.Write(text[at:])
	return result.Bytes(), nil
}

// plan records what an operation does to which mapping.
func (e *editor) plan(operation Operation) error {
	last := len(operation.at) - 1
	parent, made, err := e.find(operation.at[:last])
	if err != nil {
		return err
	}
	key := operation.at[last]
	if operation.Op == "remove" {
		if made != nil {
			return fmt.Errorf("%s is not there", operation.at)
		}
		owner, _ := e.lookup(parent, key)
		if owner == nil {
			return problem{parent.line, fmt.Sprintf("%s is not there", operation.at)}
		}
		e.removeAll(owner, key)
		return nil
	}
	added := &fresh{}
	added.text, added.isText = operation.Value.(string)
	if made != nil {
		made.set(key, added)
		return nil
	}
	e.set(parent, key, added)
	return nil
}

// removeAll removes every entry of a key: if only the last one were removed, kubectl would
// take the one before it.
func (e *editor) removeAll(owner *value, key string) {
	for i := 0; i < len(owner.children); i += 2 {
		if k := owner.children[i]; !k.merge && deref(k).kind == yaml.ScalarNode && deref(k).text == key {
			e.change(owner).removed[i/2] = true
		}
	}
}

// find returns the mapping at a pointer, which is one of the text or a new one.
func (e *editor) find(at pointer) (*value, *fresh, error) {
	current := deref(e.root)
	var made *fresh
	for i, token := range at {
		if made != nil {
			if made = made.get(token); made == nil {
				return nil, nil, fmt.Errorf("%s is not there", at[:i+1])
			}
			continue
		}
		next, err := e.step(current, token)
		if err != nil {
			return nil, nil, err
		}
		if made = e.madeOf(current, token); made == nil && next == nil {
			return nil, nil, problem{current.line, fmt.Sprintf("%s is not there", at[:i+1])}
		}
		current = next
	}
	if made == nil && current.kind != yaml.MappingNode {
		return nil, nil, problem{current.line, fmt.Sprintf("%s is not a mapping", at)}
	}
	return current, made, nil
}

// step goes to a child, nil if there is none.
func (e *editor) step(from *value, token string) (*value, error) {
	switch from.kind {
	case yaml.MappingNode:
		if owner, entry := e.lookup(from, token); owner != nil {
			return e.deref(owner.children[2*entry+1]), nil
		}
		return nil, nil
	case yaml.SequenceNode:
		if index, err := strconv.Atoi(token); err == nil && index >= 0 && index < len(from.children) {
			return e.deref(from.children[index]), nil
		}
	}
	return nil, problem{from.line, fmt.Sprintf("%q is not there", token)}
}

// madeOf returns the new value of a key, nil if the key has none.
func (e *editor) madeOf(mapping *value, key string) *fresh {
	c := e.of[mapping]
	if c == nil {
		return nil
	}
	if owner, entry := lookup(mapping, key); owner == mapping && c.replaced[entry] != nil {
		return c.replaced[entry]
	}
	return (&fresh{entries: c.added}).get(key)
}

func (e *editor) change(mapping *value) *change {
	if c := e.of[mapping]; c != nil {
		return c
	}
	c := &change{mapping: mapping, removed: map[int]bool{}, replaced: map[int]*fresh{}}
	e.of[mapping] = c
	e.changes = append(e.changes, c)
	return c
}

// set adds a key or replaces its value.
func (e *editor) set(mapping *value, key string, to *fresh) {
	c := e.change(mapping)
	if owner, entry := lookup(mapping, key); owner == mapping {
		c.replaced[entry] = to
		return
	}
	all := &fresh{entries: c.added}
	all.set(key, to)
	c.added = all.entries
}

func (f *fresh) get(key string) *fresh {
	for _, a := range f.entries {
		if a.key == key {
			return a.value
		}
	}
	return nil
}

// set keeps a mapping that is already there: two objects may share it.
func (f *fresh) set(key string, to *fresh) {
	for i, a := range f.entries {
		if a.key == key {
			if to.isText || a.value.isText {
				f.entries[i].value = to
			}
			return
		}
	}
	f.entries = append(f.entries, addition{key, to})
}

// deref follows aliases. A tree that kubectl's reader accepted has no cycle.
func deref(v *value) *value {
	for v.kind == yaml.AliasNode && v.target != nil {
		v = v.target
	}
	return v
}

// deref follows aliases and records the first one.
func (e *editor) deref(v *value) *value {
	if v.kind == yaml.AliasNode && e.shared == nil {
		e.shared = v
	}
	return deref(v)
}

// lookup finds an entry and records the first merge key on the way to it.
func (e *editor) lookup(mapping *value, key string) (owner *value, entry int) {
	owner, entry = lookup(mapping, key)
	if owner != nil && owner != mapping && e.shared == nil {
		e.shared = mapping
	}
	return owner, entry
}

// firstLine returns the line of the first change.
func (e *editor) firstLine() int {
	line := 0
	for _, c := range e.changes {
		if line == 0 || c.mapping.line < line {
			line = c.mapping.line
		}
	}
	return line
}

// lookup finds the entry that gives a mapping's key its value, in the mapping itself or in
// one that it merges. As in kubectl's reader the last entry wins, and the first mapping in
// a list of merged mappings.
func lookup(mapping *value, key string) (owner *value, entry int) {
	mapping = deref(mapping)
	if mapping.kind != yaml.MappingNode {
		return nil, 0
	}
	for i := 0; i < len(mapping.children); i += 2 {
		k, v := mapping.children[i], deref(mapping.children[i+1])
		switch {
		case !k.merge && deref(k).kind == yaml.ScalarNode && deref(k).text == key:
			owner, entry = mapping, i/2
		case k.merge && v.kind == yaml.SequenceNode:
			for _, item := range slices.Backward(v.children) {
				if o, at := lookup(item, key); o != nil {
					owner, entry = o, at
				}
			}
		case k.merge:
			if o, at := lookup(v, key); o != nil {
				owner, entry = o, at
			}
		}
	}
	return owner, entry
}

// position returns the entry before which a new key goes: where a reader would look for it.
// The number of entries means the end.
func position(mapping *value, key string) int {
	switch key {
	case "metadata":
		if owner, entry := lookup(mapping, "spec"); owner == mapping {
			return entry
		}
		return 0
	case "runtimeClassName":
		return 0
	default:
		return len(mapping.children) / 2
	}
}

// runs calls do for each run of removed entries, from the first to the last.
func (c *change) runs(do func(first, last int) error) error {
	entries := len(c.mapping.children) / 2
	for first := 0; first < entries; first++ {
		if !c.removed[first] {
			continue
		}
		last := first
		for c.removed[last+1] {
			last++
		}
		if err := do(first, last); err != nil {
			return err
		}
		first = last
	}
	return nil
}

// places returns where additions go, in order: entries, or their number for the end.
func (c *change) places() []int {
	var places []int
	for _, a := range c.added {
		if at := position(c.mapping, a.key); !slices.Contains(places, at) {
			places = append(places, at)
		}
	}
	slices.Sort(places)
	return places
}

// addedAt returns the additions that go before an entry.
func (c *change) addedAt(place int) []addition {
	var added []addition
	for _, a := range c.added {
		if position(c.mapping, a.key) == place {
			added = append(added, a)
		}
	}
	return added
}

// firstIndent returns the indentation of the first nested mapping, 0 if there is none.
func (e *editor) firstIndent(v *value) int {
	if v.flow {
		return 0
	}
	for i, child := range v.children {
		if v.kind == yaml.MappingNode && i%2 == 1 && child.kind == yaml.MappingNode && !child.flow && child.line > v.children[i-1].line {
			return max(e.column(child.children[0].start)-e.column(v.children[i-1].start), 0)
		}
	}
	for _, child := range v.children {
		if by := e.firstIndent(child); by > 0 {
			return by
		}
	}
	return 0
}
