// Package lab has nothing but the programs below it, which measure: bench what handlers cost, growth what many containers cost,
// soak whether anything grows or is lost in thousands of runs. docs/measurements.md has their last results.
package lab
