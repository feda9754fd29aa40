package report

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"time"
)

// Report is one run of the benchmark.
type Report struct {
	Machine Machine   `json:"machine"`
	Began   time.Time `json:"began"`
	// Seconds is how long all of it took.
	Seconds float64  `json:"seconds"`
	Scenes  []*Scene `json:"scenes"`
	// Rows are Ratios of Scenes, for programs that read the file.
	Rows []Row `json:"rows"`
}

// Machine is what the numbers belong to.
type Machine struct {
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Memory int64  `json:"memoryBytes"`
	Kernel string `json:"kernel"`
	// Cgroups is v1, v2, or hybrid: v1 with an empty v2 hierarchy beside it.
	Cgroups string `json:"cgroups"`
	// LoadBefore and LoadAfter are the load averages of one minute around the run, our own in it.
	LoadBefore float64 `json:"loadBefore"`
	LoadAfter  float64 `json:"loadAfter"`
	// Versions are the programs' own words, by program.
	Versions map[string]string `json:"versions"`
	Commit   string            `json:"commit"`
}

// Scene is what was measured under one set of circumstances.
type Scene struct {
	Name string `json:"name"`
	// Title completes "measured on …", for people.
	Title string `json:"title"`
	Unit  string `json:"unit"` // ms or MB
	// Series are the values by what was measured. Values with one index are of one round.
	Series map[string][]float64 `json:"series"`
}

// Add appends a round's values, which must be of the same series each time.
func (s *Scene) Add(values map[string]float64) {
	if s.Series == nil {
		s.Series = map[string][]float64{}
	}
	for name, value := range values {
		s.Series[name] = append(s.Series[name], math.Round(value*1000)/1000) // 1 µs, 1 kB: below any noise
	}
}

// Rounds is how many there are.
func (s *Scene) Rounds() int {
	rounds := 0
	for _, values := range s.Series {
		rounds = max(rounds, len(values))
	}
	return rounds
}

// Read reads a report that Write has written.
func Read(file string) (*Report, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the result of a benchmark (`make bench` writes one): %w", err)
	}
	r := &Report{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s is not the result of a benchmark: %w", file, err)
	}
	return r, nil
}

// Write writes the report, with its rows, as JSON.
func (r *Report) Write(file string) error {
	r.Rows = r.Ratios()
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
