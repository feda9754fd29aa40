package options

import (
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

func mustRead(t testing.TB, options *anypb.Any) *Options {
	t.Helper()
	read, err := Read(options)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// refused checks that the error is of our type and names what the user has to
// look for.
func refused(t testing.TB, err error, names ...string) {
	t.Helper()
	var options *Error
	if !errors.As(err, &options) {
		t.Fatalf("got %v, want an *Error", err)
	}
	for _, name := range names {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%q does not say %q", err, name)
		}
	}
	if strings.ContainsAny(err.Error(), "\r\n") {
		t.Errorf("%q is more than a line", err)
	}
	if strings.Contains(err.Error(), "TypeUrl") {
		t.Errorf("%q names what is not the user's to write", err)
	}
}

func TestOptionsOfEveryForm(t *testing.T) {
	const body = `
BinaryName = "crun"
Root = "/run/other"
SystemdCgroup = true
DefaultPostStartTimeout = "90s"
DefaultGracePeriod = "1m30s"
OutputLimit = 100
`
	runc := &runcoptions.Options{BinaryName: "crun", Root: "/run/other", SystemdCgroup: true}
	all := nodeConfig{
		DefaultPostStartTimeout: duration{Duration: 90 * time.Second},
		DefaultGracePeriod:      duration{Duration: 90 * time.Second},
		OutputLimit:             proto.Int64(100),
	}
	file := shimtest.WriteFile(t, "runtime.toml", body)
	for name, test := range map[string]struct {
		options *anypb.Any
		want    Options
	}{
		"nil":                 {nil, Options{}},
		"an empty Any":        {&anypb.Any{}, Options{}},
		"runc's own":          {shimtest.Pack(t, runc), Options{Runc: runc, systemdCgroup: true}},
		"runc's own, empty":   {shimtest.Pack(t, &runcoptions.Options{}), Options{Runc: &runcoptions.Options{}, systemdCgroup: true}},
		"TOML inline":         {shimtest.InTOML(t, body), Options{Runc: runc, systemdCgroup: true, config: all}},
		"TOML, empty":         {shimtest.InTOML(t, ""), Options{Runc: &runcoptions.Options{}}},
		"TOML in a file":      {shimtest.Pack(t, &runtimeoptions.Options{ConfigPath: file}), Options{Runc: runc, systemdCgroup: true, config: all}},
		"a file wins":         {shimtest.Pack(t, &runtimeoptions.Options{ConfigPath: file, ConfigBody: []byte("nonsense")}), Options{Runc: runc, systemdCgroup: true, config: all}},
		"typed":               {shimtest.Pack(t, &lifecyclev1.Options{}), Options{}},
		"typed with all":      {shimtest.Pack(t, typedOptions(runc)), Options{Runc: runc, systemdCgroup: true, config: all}},
		"with anypb's prefix": {shimtest.Any(t, runc), Options{Runc: runc, systemdCgroup: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustRead(t, test.options)
			if (got.Runc == nil) != (test.want.Runc == nil) || !proto.Equal(got.Runc, test.want.Runc) {
				t.Errorf("runc's options are %v, want %v", got.Runc, test.want.Runc)
			}
			if got.systemdCgroup != test.want.systemdCgroup {
				t.Errorf("systemdCgroup is %t", got.systemdCgroup)
			}
			if !reflect.DeepEqual(got.config, test.want.config) {
				t.Errorf("the settings are %+v, want %+v", got.config, test.want.config)
			}
		})
	}
}

func typedOptions(runc *runcoptions.Options) *lifecyclev1.Options {
	return &lifecyclev1.Options{
		Runc:                    runc,
		DefaultPostStartTimeout: durationpb.New(90 * time.Second),
		DefaultGracePeriod:      durationpb.New(90 * time.Second),
		OutputLimit:             proto.Int64(100),
	}
}

// TestEveryRuncOptionInTOML walks the struct, so that a field which a new
// version of containerd adds is not forgotten.
func TestEveryRuncOptionInTOML(t *testing.T) {
	fields := reflect.VisibleFields(reflect.TypeFor[runcoptions.Options]())
	tested := 0
	for _, field := range fields {
		if !field.IsExported() {
			continue
		}
		tested++
		t.Run(field.Name, func(t *testing.T) {
			want := &runcoptions.Options{}
			text := setSomething(t, reflect.ValueOf(want).Elem().FieldByIndex(field.Index))
			got := mustRead(t, shimtest.InTOML(t, field.Name+" = "+text))
			if !proto.Equal(got.Runc, want) {
				t.Errorf("got %v, want %v", got.Runc, want)
			}
		})
	}
	if tested < 12 {
		t.Errorf("%d fields were tested; containerd 2.4 has 12", tested)
	}
}

// setSomething gives a field a value that is not its zero, and returns it as
// TOML has it.
func setSomething(t *testing.T, field reflect.Value) string {
	t.Helper()
	switch field.Kind() {
	case reflect.Bool:
		field.SetBool(true)
		return "true"
	case reflect.String:
		field.SetString("something")
		return `"something"`
	case reflect.Uint32:
		field.SetUint(4_000_000_000)
		return "4000000000"
	default:
		t.Fatalf("runc's options have a field of kind %s now: see that TOML can set it", field.Kind())
		return ""
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.toml")
	wrong := shimtest.WriteFile(t, "wrong.toml", "Nonsense = 1")
	for name, test := range map[string]struct {
		options *anypb.Any
		names   []string
	}{
		"an unknown type":             {&anypb.Any{TypeUrl: "example.com/unknown"}, []string{"example.com/unknown"}},
		"a type of something else":    {shimtest.Pack(t, &eventstypes.TaskStart{}), []string{"containerd.events.TaskStart", "lifecycle.v1"}},
		"bytes that are no message":   {&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte("\xff")}, []string{"containerd.runc.v1.Options"}},
		"no TOML":                     {shimtest.InTOML(t, "a = = b"), []string{"the runtime's options: line 1: "}},
		"an unknown key":              {shimtest.InTOML(t, `BinaryNam = "crun"`), []string{`unknown setting "BinaryNam"; allowed: `, "DefaultGracePeriod", "OutputLimit", "BinaryName", "IoUid"}},
		"an unknown table":            {shimtest.InTOML(t, "[Runc]\nRoot = '/'"), []string{`unknown setting "Runc"; allowed: `}},
		"two unknown keys":            {shimtest.InTOML(t, "One = 1\nTwo = 2"), []string{`unknown setting "One", "Two"; allowed: `}},
		"a message's inner field":     {shimtest.InTOML(t, "sizeCache = 1"), []string{"sizeCache"}},
		"a file with an unknown key":  {shimtest.Pack(t, &runtimeoptions.Options{ConfigPath: wrong}), []string{wrong, "Nonsense"}},
		"a file that is missing":      {shimtest.Pack(t, &runtimeoptions.Options{ConfigPath: missing}), []string{missing}},
		"a file that is a directory":  {shimtest.Pack(t, &runtimeoptions.Options{ConfigPath: filepath.Dir(missing)}), []string{filepath.Dir(missing)}},
		"a number for a text":         {shimtest.InTOML(t, "Root = '/'\nBinaryName = 5"), []string{"line 2: BinaryName: "}},
		"a text for a boolean":        {shimtest.InTOML(t, `SystemdCgroup = "true"`), []string{"line 1: SystemdCgroup: "}},
		"a negative uid":              {shimtest.InTOML(t, "IoUid = -1"), []string{"line 1: IoUid: "}},
		"a text for the limit":        {shimtest.InTOML(t, `OutputLimit = "4096"`), []string{"line 1: OutputLimit: "}},
		"a key twice":                 {shimtest.InTOML(t, "Root = 'a'\nRoot = 'b'"), []string{"line 2: Root: "}},
		"a duration without a unit":   {shimtest.InTOML(t, `DefaultGracePeriod = "90"`), []string{`DefaultGracePeriod: "90" is no duration above 0, such as "90s"`}},
		"a duration as a number":      {shimtest.InTOML(t, `DefaultGracePeriod = 90`), []string{`DefaultGracePeriod: "90" is no duration above 0`}},
		"a duration as a list":        {shimtest.InTOML(t, `DefaultGracePeriod = ["90s"]`), []string{"line 1: DefaultGracePeriod: "}},
		"a duration as a table":       {shimtest.InTOML(t, `DefaultGracePeriod.Duration = "90s"`), []string{`"DefaultGracePeriod.Duration"`}},
		"a key of two lines":          {shimtest.InTOML(t, `"a\nb" = 1`), []string{`unknown setting "a\nb"; allowed: `}},
		"a key of two lines, twice":   {shimtest.InTOML(t, "\"a\\nb\" = 1\n\"a\\nb\" = 2"), []string{"line 2: "}},
		"a duration that is none":     {shimtest.InTOML(t, `DefaultPostStartTimeout = "soon"`), []string{`DefaultPostStartTimeout: "soon"`}},
		"a duration that is empty":    {shimtest.InTOML(t, `DefaultPostStartTimeout = ""`), []string{`DefaultPostStartTimeout: "" is no duration`}},
		"a duration of 0":             {shimtest.InTOML(t, `DefaultGracePeriod = "0s"`), []string{`DefaultGracePeriod: "0s" is no duration above 0`}},
		"a negative duration":         {shimtest.InTOML(t, `DefaultPostStartTimeout = "-1s"`), []string{`DefaultPostStartTimeout: "-1s" is no duration above 0`}},
		"a duration that is too long": {shimtest.InTOML(t, `DefaultGracePeriod = "9999999h"`), []string{`DefaultGracePeriod: "9999999h"`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(test.options)
			refused(t, err, test.names...)
		})
	}
}

// TestUnknownSettingNamesWhatMayBeWritten: no field of a message's inside, and nothing of the CRI plugin's.
func TestUnknownSettingNamesWhatMayBeWritten(t *testing.T) {
	got := settingNames(&runtimeConfig{})
	for _, name := range []string{"DefaultPostStartTimeout", "DefaultGracePeriod", "OutputLimit", "MetricsFile", "HandlerOutput", "BinaryName", "SystemdCgroup"} {
		if !slices.Contains(got, name) {
			t.Errorf("%s is missing in %q", name, got)
		}
	}
	for _, name := range []string{"state", "sizeCache", "unknownFields", "nodeConfig", "Options", "TypeUrl", "ConfigPath"} {
		if slices.Contains(got, name) {
			t.Errorf("%s is in %q", name, got)
		}
	}
	for _, name := range got {
		key := name + ` = "x"`
		if _, err := Read(shimtest.InTOML(t, key)); err != nil && strings.Contains(err.Error(), "unknown setting") {
			t.Errorf("%s is named, and refused: %v", name, err)
		}
	}
}

// TestTypedOptionsAreChecked as those in TOML are.
func TestTypedOptionsAreChecked(t *testing.T) {
	_, err := Read(shimtest.Pack(t, &lifecyclev1.Options{MetricsFile: "relative.prom"}))
	refused(t, err, `MetricsFile: "relative.prom" is no absolute path`)
	_, err = Read(shimtest.Pack(t, &lifecyclev1.Options{HandlerOutput: "Nowhere"}))
	refused(t, err, `HandlerOutput: "Nowhere" is neither`)
	if got := mustRead(t, shimtest.Pack(t, &lifecyclev1.Options{MetricsFile: "/m.prom"})).config.MetricsFile; got != "/m.prom" {
		t.Errorf("MetricsFile is %q", got)
	}
}

// TestErrorHasItsCause.
func TestErrorHasItsCause(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.toml")
	_, err := Read(shimtest.Pack(t, &runtimeoptions.Options{ConfigPath: missing}))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestCRIsOwnKeysAreAccepted: the CRI plugin leaves them in the table that it
// sends as TOML.
func TestCRIsOwnKeysAreAccepted(t *testing.T) {
	got := mustRead(t, shimtest.InTOML(t, "TypeUrl = 'runtimeoptions.v1.Options'\nConfigPath = ''\nBinaryName = 'crun'"))
	if got.Runc.GetBinaryName() != "crun" {
		t.Errorf("BinaryName is %q", got.Runc.GetBinaryName())
	}
}

// TestSystemdCgroup: what the options say wins; a cgroups path that only systemd
// can serve asks for its driver where they say nothing.
func TestSystemdCgroup(t *testing.T) {
	driver := func(systemd bool) *runcoptions.Options { return &runcoptions.Options{SystemdCgroup: systemd} }
	for name, test := range map[string]struct {
		options *anypb.Any
		path    bool                 // the cgroups path is systemd's
		want    *runcoptions.Options // that the runc service is given, nil for none
	}{
		"no options":                         {nil, false, nil},
		"no options, systemd path":           {nil, true, driver(true)},
		"TOML without it":                    {shimtest.InTOML(t, ""), false, driver(false)},
		"TOML without it, systemd path":      {shimtest.InTOML(t, ""), true, driver(true)},
		"TOML with false, systemd path":      {shimtest.InTOML(t, "SystemdCgroup = false"), true, driver(false)},
		"TOML with true":                     {shimtest.InTOML(t, "SystemdCgroup = true"), false, driver(true)},
		"runc's, systemd path":               {shimtest.Pack(t, driver(false)), true, driver(false)},
		"runc's with true":                   {shimtest.Pack(t, driver(true)), false, driver(true)},
		"typed without runc's":               {shimtest.Pack(t, &lifecyclev1.Options{}), false, nil},
		"typed without runc's, systemd path": {shimtest.Pack(t, &lifecyclev1.Options{}), true, driver(true)},
		"typed with runc's false, systemd path": {
			shimtest.Pack(t, &lifecyclev1.Options{Runc: driver(false)}), true, driver(false),
		},
	} {
		t.Run(name, func(t *testing.T) {
			packed, err := mustRead(t, test.options).ForRunc(test.path)
			if err != nil {
				t.Fatal(err)
			}
			if packed == nil || test.want == nil {
				if packed != nil || test.want != nil {
					t.Fatalf("got %v, want %v", packed, test.want)
				}
				return
			}
			var got runcoptions.Options
			if err := packed.UnmarshalTo(&got); err != nil {
				// The runc service reads it through typeurl, which wants no prefix.
				if err := typeurl.UnmarshalTo(packed, &got); err != nil {
					t.Fatal(err)
				}
			}
			if !proto.Equal(&got, test.want) {
				t.Errorf("got %v, want %v", &got, test.want)
			}
		})
	}
}

// FuzzOptions: any options of a client are read or refused as the user's mistake.
func FuzzOptions(f *testing.F) {
	for _, message := range []proto.Message{
		&runcoptions.Options{BinaryName: "crun"},
		&runtimeoptions.Options{ConfigBody: []byte("SystemdCgroup = false\nOutputLimit = 1\nDefaultGracePeriod = '1s'")},
		&lifecyclev1.Options{DefaultGracePeriod: &durationpb.Duration{Seconds: -1 << 63, Nanos: -1}, OutputLimit: proto.Int64(-1)},
		&eventstypes.TaskStart{},
	} {
		packed := shimtest.Pack(f, message)
		f.Add(packed.TypeUrl, packed.Value)
		f.Add("type.googleapis.com/"+packed.TypeUrl, packed.Value)
	}
	f.Add("\n", []byte(nil))
	f.Add("runtimeoptions.v1.Options", shimtest.Pack(f, &runtimeoptions.Options{ConfigBody: []byte("a.b.\"c\" = [{x=1},]\n[[t]]")}).Value)
	none := filepath.Join(f.TempDir(), "none.toml")
	f.Fuzz(func(t *testing.T, url string, value []byte) {
		var toml runtimeoptions.Options
		if proto.Unmarshal(value, &toml) == nil && toml.ConfigPath != "" {
			t.Skip("the machine's files are no input") // one of them never ends
		}
		read, err := Read(&anypb.Any{TypeUrl: url, Value: value})
		if err != nil {
			refused(t, err)
			return
		}
		if settings, err := read.Settings(none); err != nil {
			refused(t, err)
		} else if settings.PostStartTimeout <= 0 || settings.GracePeriod <= 0 || settings.OutputLimit < 0 {
			t.Errorf("accepted, and yet: %+v", settings)
		}
		if _, err := read.ForRunc(true); err != nil {
			t.Errorf("accepted, and yet: %v", err)
		}
	})
}

// A typed duration that makes no sense is refused, as in TOML.
func TestTypedDurationsAboveZero(t *testing.T) {
	for name, options := range map[string]*lifecyclev1.Options{
		"default_grace_period":       {DefaultGracePeriod: durationpb.New(-time.Second)},
		"default_post_start_timeout": {DefaultPostStartTimeout: durationpb.New(0)},
	} {
		_, err := Read(shimtest.Pack(t, options))
		refused(t, err, name, "not above 0")
	}
}

func TestDurationThatIsANumberIsRefused(t *testing.T) {
	for _, body := range []string{"DefaultGracePeriod = 90", "DefaultGracePeriod = -90", "DefaultPostStartTimeout = 0"} {
		_, err := Read(shimtest.InTOML(t, body))
		refused(t, err)
	}
}

// TestSystemdCgroupInWhateverCase: the decoder takes a key in any case.
func TestSystemdCgroupInWhateverCase(t *testing.T) {
	packed, err := mustRead(t, shimtest.InTOML(t, "systemdcgroup = false")).ForRunc(true)
	if err != nil {
		t.Fatal(err)
	}
	var got runcoptions.Options
	if err := typeurl.UnmarshalTo(packed, &got); err != nil || got.SystemdCgroup {
		t.Errorf("got %v, %v", &got, err)
	}
}

// TestSystemdCgroupKeepsOtherOptions of runc.
func TestSystemdCgroupKeepsOtherOptions(t *testing.T) {
	packed, err := mustRead(t, shimtest.InTOML(t, "BinaryName = 'crun'")).ForRunc(true)
	if err != nil {
		t.Fatal(err)
	}
	var got runcoptions.Options
	if err := typeurl.UnmarshalTo(packed, &got); err != nil || got.BinaryName != "crun" || !got.SystemdCgroup {
		t.Errorf("got %v, %v", &got, err)
	}
}
