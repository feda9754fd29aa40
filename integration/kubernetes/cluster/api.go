package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

const (
	// dirPattern is of the directories of clusters: short, for the sockets in them.
	dirPattern = "/run/lck-*"
	// readyLimit bounds the time from a server's start to its first answer. Usual: 3 s for the API server; it
	// generates keys and, the first time, writes some hundred objects.
	readyLimit = 2 * time.Minute
	// answerLimit bounds one request of Get.
	answerLimit = 10 * time.Second
)

// API is a Kubernetes API server with its own etcd. Its methods but Close are safe for concurrent use.
type API struct {
	Dir        string // everything is below it
	Kubeconfig string // path of a file that makes any client of it an administrator

	bin          string // of the Kubernetes binaries
	place        Place
	url, token   string
	client       *http.Client
	etcd, server harness.Program
}

// StartAPI starts both, and returns when the API server is ready. binDir is the bin/ in which kubernetes/ is. flags
// are further ones for the API server, such as --feature-gates=…. ctx bounds the start only.
func StartAPI(ctx context.Context, binDir string, flags ...string) (*API, error) {
	dir, err := MakeDir()
	if err != nil {
		return nil, err
	}
	place, err := loopback()
	if err != nil {
		return nil, errors.Join(err, remove(dir))
	}
	place.Flags = append(place.Flags, flags...)
	return StartAPIAt(ctx, binDir, dir, place)
}

// MakeDir makes the directory of a cluster, having removed what dead tests have left.
func MakeDir() (string, error) {
	Sweep()
	dir, err := os.MkdirTemp(filepath.Split(dirPattern))
	if err != nil {
		return "", fmt.Errorf("a directory for the cluster (the tests run as root): %w", err)
	}
	if err := errors.Join(harness.Own(dir), os.Chmod(dir, 0o711)); err != nil {
		return "", errors.Join(err, remove(dir))
	}
	return dir, nil
}

// StartAPIAt is StartAPI at another place than the loopback. dir is of MakeDir, and goes with Close, or on error.
func StartAPIAt(ctx context.Context, binDir, dir string, place Place) (*API, error) {
	a := &API{
		Dir: dir, Kubeconfig: filepath.Join(dir, "kubeconfig"),
		bin: filepath.Join(binDir, "kubernetes"), place: place, token: rand.Text(),
	}
	if err := a.start(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func (a *API) start(ctx context.Context) error {
	at := func(port int) string { return fmt.Sprintf("%s:%d", a.place.Address, port) }
	a.url = "https://" + at(a.place.Port)
	etcd, peer := "http://"+at(a.place.EtcdPort), "http://"+at(a.place.PeerPort)
	a.etcd = a.Program("etcd", "--data-dir="+a.path("etcd"), "--name=test", "--log-level=warn", "--unsafe-no-fsync",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd, "--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer,
		"--initial-cluster=test="+peer)
	a.server = a.Program("kube-apiserver", append([]string{
		"--etcd-servers=" + etcd, "--bind-address=" + a.place.Address, fmt.Sprintf("--secure-port=%d", a.place.Port), "--cert-dir=" + a.path("certs"),
		"--token-auth-file=" + a.path("tokens"),
		"--service-account-issuer=" + a.url, "--service-account-key-file=" + a.path("accounts.pub"),
		"--service-account-signing-key-file=" + a.path("accounts.key"),
		"--kubelet-preferred-address-types=InternalIP,Hostname",
	}, a.place.Flags...)...)
	for _, step := range []func() error{
		a.writeCredentials, a.etcd.Start, a.server.Start, func() error { return a.waitReady(ctx) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (a *API) path(name string) string { return filepath.Join(a.Dir, name) }

// Program is one of the Kubernetes binaries, at the API server's place, with its log in Dir.
func (a *API) Program(name string, args ...string) harness.Program {
	return harness.Program{
		Name: name, Args: a.place.command(filepath.Join(a.bin, name), args...), Env: a.environ(), LogFile: a.path(name + ".log"),
	}
}

// environ keeps what clients of Kubernetes write by themselves below Dir, and what they read of the user's out. sbin is
// in no user's PATH, and the kubelet needs mount.
func (a *API) environ() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + a.Dir, "KUBECONFIG=" + a.Kubeconfig}
}

// writeCredentials writes the administrator's token, with a kubeconfig for it, and the key that would sign tokens of
// service accounts: the server insists on one.
func (a *API) writeCredentials() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"accounts.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
		"accounts.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"tokens":       []byte(a.token + ",admin,admin,system:masters\n" + a.place.tokens()),
		"kubeconfig":   []byte(a.KubeconfigFor(a.token, a.certificate())),
	} {
		if err := os.WriteFile(a.path(name), content, 0o600); err != nil {
			return fmt.Errorf("credentials of the API server: %w", err)
		}
	}
	return nil
}

// KubeconfigFor is the text of a file for the client with that token, which finds the server's certificate at that path.
func (a *API) KubeconfigFor(token, certificate string) string {
	return fmt.Sprintf(kubeconfig, a.url, certificate, token)
}

const kubeconfig = `apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: admin}}]
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: admin, user: {token: %q}}]
`

// Certificate is the one that clients trust, once the server runs.
func (a *API) Certificate() string { return a.certificate() }

// certificate is made by the server itself, signed with a key that it forgets.
func (a *API) certificate() string { return a.path("certs/apiserver.crt") }

func (a *API) waitReady(ctx context.Context) error {
	err := harness.Poll(ctx, readyLimit, "the API server", func() (bool, error) {
		if err := errors.Join(a.etcd.Ended(), a.server.Ended()); err != nil {
			return false, err
		}
		return a.connect() == nil && a.Get(ctx, "/readyz", nil) == nil &&
			a.Get(ctx, "/api/v1/namespaces/default", nil) == nil, nil // which a server that is ready makes a moment later
	})
	if err != nil {
		return fmt.Errorf("%w\netcd:\n%s\nkube-apiserver:\n%s", err, tail(a.etcd.Log()), tail(a.server.Log()))
	}
	return nil
}

// connect trusts the server's certificate, once there is one.
func (a *API) connect() error {
	if a.client != nil {
		return nil
	}
	text, err := os.ReadFile(a.certificate())
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return errors.New("no certificate yet")
	}
	a.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DialContext: a.place.dial}}
	return nil
}

// Close ends both servers, and removes Dir. A second Close does nothing.
func (a *API) Close() error {
	if a.client != nil {
		a.client.CloseIdleConnections()
	}
	// What they hold goes with Dir: they need not end in order.
	return errors.Join(a.server.Stop(syscall.SIGKILL), a.etcd.Stop(syscall.SIGKILL), remove(a.Dir))
}
