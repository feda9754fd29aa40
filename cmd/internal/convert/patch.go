package convert

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Operation is one operation of a JSON patch (RFC 6902).
type Operation struct {
	Op    string `json:"op"` // add or remove
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"` // a string, or an empty object

	at pointer
}

// pointer is a JSON pointer (RFC 6901): keys, and indices in decimal.
type pointer []string

func (p pointer) with(tokens ...string) pointer {
	return append(append(pointer{}, p...), tokens...)
}

func (p pointer) index(i int) pointer { return p.with(strconv.Itoa(i)) }

var escapeToken = strings.NewReplacer("~", "~0", "/", "~1")

func (p pointer) String() string {
	var text strings.Builder
	for _, token := range p {
		text.WriteByte('/')
		text.WriteString(escapeToken.Replace(token))
	}
	return text.String()
}

func add(at pointer, value any) Operation {
	return Operation{Op: "add", Path: at.String(), Value: value, at: at}
}

func remove(at pointer) Operation {
	return Operation{Op: "remove", Path: at.String(), at: at}
}

// emptyObject is a value that omitempty keeps.
var emptyObject = json.RawMessage("{}")
