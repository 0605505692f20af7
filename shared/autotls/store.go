package autotls

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	certFile = "ca.crt"
	keyFile  = "ca.key"
)

// load returns the CA that is kept in dir, nil if there is none: neither file exists. A file that is empty, cut
// off, or does not belong to the other is an error, and so is one of them alone: clients may have been told to
// trust this CA, so it is for the operator to say that it is lost.
func load(dir string) (*authority, error) {
	certPEM, certErr := os.ReadFile(filepath.Join(dir, certFile))
	keyPEM, keyErr := os.ReadFile(filepath.Join(dir, keyFile))
	switch noCert, noKey := errors.Is(certErr, fs.ErrNotExist), errors.Is(keyErr, fs.ErrNotExist); {
	case noCert && noKey:
		return nil, nil
	case noCert && keyErr == nil:
		return nil, damaged(dir, fmt.Errorf("%s is there without %s", keyFile, certFile))
	case noKey && certErr == nil:
		return nil, damaged(dir, fmt.Errorf("%s is there without %s", certFile, keyFile))
	case certErr != nil || keyErr != nil:
		return nil, fmt.Errorf("read the CA: %w", errors.Join(certErr, keyErr))
	}
	for name, content := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
		if len(bytes.TrimSpace(content)) == 0 {
			return nil, damaged(dir, fmt.Errorf("%s is empty", name))
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, damaged(dir, err)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, damaged(dir, err)
	}
	if len(pair.Certificate) != 1 {
		return nil, damaged(dir, fmt.Errorf("%s holds %d certificates, not one", certFile, len(pair.Certificate)))
	}
	if err := checkCA(cert); err != nil {
		return nil, damaged(dir, err)
	}
	return &authority{cert: cert, key: pair.PrivateKey.(crypto.Signer)}, nil
}

func damaged(dir string, err error) error {
	return fmt.Errorf("the CA in %s cannot be used: %w: restore %s and %s, or remove both to have a new CA made",
		dir, err, certFile, keyFile)
}

// save keeps the CA in dir. Each file appears complete or not at all. Unless an old CA is to be replaced, the key
// is published first and only if nobody else has: of two servers that start together on one directory, one gives
// up, and finds the other's CA when it starts again.
func save(dir string, ca *authority, replace bool) error {
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return fmt.Errorf("encode the CA key: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return unwritable(dir, err)
	}
	key, err := stage(dir, encode("PRIVATE KEY", der), 0o600)
	if err != nil {
		return unwritable(dir, err)
	}
	defer os.Remove(key)
	cert, err := stage(dir, encode("CERTIFICATE", ca.cert.Raw), 0o644) // for others, like Prometheus, to trust
	if err != nil {
		return unwritable(dir, err)
	}
	defer os.Remove(cert)
	if err := publish(key, filepath.Join(dir, keyFile), replace); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("another process is making a CA in %s at this moment: start again to use that", dir)
		}
		return unwritable(dir, err)
	}
	if err := publish(cert, filepath.Join(dir, certFile), true); err != nil {
		return unwritable(dir, err)
	}
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // not every system can; the files themselves are on disk
		d.Close()
	}
	return nil
}

func unwritable(dir string, err error) error {
	return fmt.Errorf("keep the CA in %s: %w: make the directory writable for user id %d, or unset AUTO_TLS_DIR",
		dir, err, os.Getuid())
}

// stage writes a temporary file and returns its name.
func stage(dir string, content []byte, mode fs.FileMode) (string, error) {
	f, err := os.CreateTemp(dir, ".ca-*") // creates with mode 0600
	if err != nil {
		return "", err
	}
	if mode != 0o600 {
		err = f.Chmod(mode)
	}
	if err == nil {
		_, err = f.Write(content)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// publish gives a staged file its name. Without replace it fails with fs.ErrExist if the name is taken, on file
// systems that have hard links; on others the last one wins.
func publish(staged, name string, replace bool) error {
	if !replace {
		if err := os.Link(staged, name); err == nil || errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return os.Rename(staged, name)
}
