package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

const (
	membersPath   = "/apis/etcd.k0sproject.io/v1beta1/etcdmembers"
	leasesPath    = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	requestsPath  = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	leaseLabel    = "k0s.k0sproject.io/controller-lease"
	onLeaveLabel  = "k0s.k0sproject.io/shutdown-on-leave"
	shutdownLabel = "k0s.k0sproject.io/shutdown"
	leaseSeconds  = 60
)

// etcdMember is an EtcdMember.
type etcdMember struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name            string            `json:"name"`
		Labels          map[string]string `json:"labels,omitempty"`
		ResourceVersion string            `json:"resourceVersion,omitempty"`
		UID             string            `json:"uid,omitempty"`
	} `json:"metadata"`
	Spec struct {
		Leave bool `json:"leave,omitempty"`
	} `json:"spec"`
	Status *memberStatus `json:"status,omitempty"`
}

type memberStatus struct {
	PeerAddress     string            `json:"peerAddress"`
	MemberID        string            `json:"memberID"`
	ReconcileStatus string            `json:"reconcileStatus,omitempty"`
	Message         string            `json:"message,omitempty"`
	Conditions      []memberCondition `json:"conditions,omitempty"`
}

type memberCondition struct {
	Type               string `json:"type"`
	Status             string `json:"status"`
	Message            string `json:"message,omitempty"`
	LastTransitionTime string `json:"lastTransitionTime"`
}

func (m *etcdMember) joined() string {
	if m.Status == nil {
		return ""
	}
	for _, c := range m.Status.Conditions {
		if c.Type == "Joined" {
			return c.Status
		}
	}
	return ""
}

func (m *etcdMember) setJoined(status, message string) {
	m.Status.Conditions = []memberCondition{{Type: "Joined", Status: status, Message: message, LastTransitionTime: time.Now().UTC().Format(time.RFC3339)}}
}

type lease struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
	Spec       struct {
		Holder   string `json:"holderIdentity"`
		Duration int    `json:"leaseDurationSeconds"`
		Renewed  string `json:"renewTime"`
	} `json:"spec"`
}

func (l *lease) age() time.Duration {
	when, err := time.Parse(time.RFC3339Nano, l.Spec.Renewed)
	if err != nil {
		return time.Hour
	}
	return time.Since(when)
}

func (d *daemon) leaseName() string { return "k0s-ctrl-" + d.node }

// renew says that this controller is alive.
func (d *daemon) renew(ctx context.Context) error {
	l := lease{APIVersion: "coordination.k8s.io/v1", Kind: "Lease", Metadata: map[string]any{"name": d.leaseName(), "namespace": "kube-node-lease"}}
	l.Spec.Holder, l.Spec.Duration, l.Spec.Renewed = d.invocation, leaseSeconds, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
	err := d.client.Patch(ctx, leasesPath+"/"+d.leaseName(), map[string]any{"spec": l.Spec})
	if standin.IsStatus(err, http.StatusNotFound) {
		return d.client.Create(ctx, leasesPath, l)
	}
	return err
}

// ownMember makes this controller's EtcdMember. One that was told to leave is told no more: a restart of
// the controller revokes the leave without a word (k0s issue 8141).
func (d *daemon) ownMember(ctx context.Context) error {
	name, err := hostname()
	if err != nil {
		return err
	}
	address := d.config.Spec.Storage.Etcd.PeerAddress
	all, err := d.members.Members(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(m standin.Member) bool { return slices.Contains(m.PeerURLs, standin.PeerURL(address)) })
	if i < 0 {
		return fmt.Errorf("no etcd member with peer address %s", address)
	}
	labels := map[string]any{leaseLabel: d.leaseName(), onLeaveLabel: d.invocation, shutdownLabel: nil}
	patch := map[string]any{"metadata": map[string]any{"labels": labels}, "spec": map[string]any{"leave": nil}}
	err = d.client.Patch(ctx, membersPath+"/"+name, patch)
	if standin.IsStatus(err, http.StatusNotFound) {
		delete(labels, shutdownLabel)
		err = d.client.Create(ctx, membersPath, map[string]any{
			"apiVersion": "etcd.k0sproject.io/v1beta1", "kind": "EtcdMember", "metadata": map[string]any{"name": name, "labels": labels}, "spec": map[string]any{},
		})
	}
	if err != nil {
		return err
	}
	m := etcdMember{Status: &memberStatus{PeerAddress: address, MemberID: strconv.FormatUint(all[i].ID, 16)}}
	m.setJoined("True", "Member joined")
	return d.client.Patch(ctx, membersPath+"/"+name+"/status", map[string]any{"status": map[string]any{
		"peerAddress": address, "memberID": m.Status.MemberID, "conditions": m.Status.Conditions, "message": nil, "reconcileStatus": nil,
	}})
}

// reconcile is what a controller does all the time. k0s has one leader do it; here each does, which is
// the same to whoever looks on.
func (d *daemon) reconcile(ctx context.Context, end context.CancelCauseFunc) {
	last := map[string]string{}
	report := func(what string, err error) {
		text := ""
		if err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		if text != "" && text != last[what] {
			d.complain(what, err)
		}
		last[what] = text
	}
	for tick := 0; ; tick++ {
		if tick%5 == 0 {
			report("renewing the lease", d.renew(ctx))
		}
		_, err := d.members.PromoteLearners(ctx)
		report("promoting learners", err)
		report("reconciling members", d.reconcileMembers(ctx, end))
		report("reconciling workers", d.reconcileWorkers(ctx))
		if !d.disabled("csr-approver") {
			report("approving requests", d.approve(ctx))
		}
		if !d.disabled("node-role") {
			report("labelling nodes", d.labelRoles(ctx))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Second):
		}
	}
}

func (d *daemon) reconcileMembers(ctx context.Context, end context.CancelCauseFunc) error {
	var list struct{ Items []etcdMember }
	if err := d.client.Get(ctx, membersPath, &list); err != nil {
		return err
	}
	all, err := d.members.Members(ctx)
	if err != nil {
		return err
	}
	var failed error
	for i := range list.Items {
		m := &list.Items[i]
		if m.Metadata.Labels[shutdownLabel] == d.invocation {
			d.say("Etcd member marked for shutdown; stopping components and waiting for external termination")
			d.leave()
			end(errLeft)
			return nil
		}
		if m.Status != nil {
			failed = errors.Join(failed, d.reconcileMember(ctx, m, all))
		}
	}
	return failed
}

func (d *daemon) setStatus(ctx context.Context, m *etcdMember) error {
	return d.client.Patch(ctx, membersPath+"/"+m.Metadata.Name+"/status", map[string]any{"status": m.Status})
}

// reconcileMember is the protocol of leaving: a member that lives is asked to shut down and leaves by itself; one
// that is gone is waited for, five minutes after its last sign of life, and then removed.
func (d *daemon) reconcileMember(ctx context.Context, m *etcdMember, all []standin.Member) error {
	exists := slices.ContainsFunc(all, func(e standin.Member) bool { return strconv.FormatUint(e.ID, 16) == m.Status.MemberID })
	if !exists {
		if m.joined() == "False" {
			return nil
		}
		m.Status.Message, m.Status.ReconcileStatus = "No such member ID", "Success"
		m.setJoined("False", m.Status.Message)
		return d.setStatus(ctx, m)
	}
	if !m.Spec.Leave {
		return nil
	}
	note := func(message string) error {
		if m.Status.Message == message {
			return nil
		}
		m.Status.Message, m.Status.ReconcileStatus = message, ""
		return d.setStatus(ctx, m)
	}
	if m.Status.PeerAddress == d.config.Spec.Storage.Etcd.PeerAddress {
		if len(all) < 2 {
			return note("The only active controller cannot leave the etcd cluster; either bring another controller online or clear spec.leave")
		}
		return nil // another controller does it
	}
	var l lease
	if err := d.client.Get(ctx, leasesPath+"/"+m.Metadata.Labels[leaseLabel], &l); err != nil {
		if standin.IsStatus(err, http.StatusNotFound) {
			return note("No k0s controller lease found")
		}
		return err
	}
	switch {
	case l.age() < leaseSeconds*time.Second:
		if m.Metadata.Labels[shutdownLabel] != m.Metadata.Labels[onLeaveLabel] {
			return d.client.Patch(ctx, membersPath+"/"+m.Metadata.Name, map[string]any{"metadata": map[string]any{"labels": map[string]any{shutdownLabel: m.Metadata.Labels[onLeaveLabel]}}})
		}
		return note("Member is still active; waiting for it to shutdown")
	case l.age() < 5*time.Minute:
		return note("Member is offline; waiting for it to leave")
	}
	if err := d.members.Remove(ctx, standin.PeerURL(m.Status.PeerAddress)); err != nil {
		return err
	}
	m.Status.Message, m.Status.ReconcileStatus = "Member removed from cluster", "Success"
	m.setJoined("False", m.Status.Message)
	return d.setStatus(ctx, m)
}

// approve lets kubelets have their serving certificates.
func (d *daemon) approve(ctx context.Context) error {
	if d.s == nil {
		return nil
	}
	var list struct{ Items []map[string]any }
	if err := d.client.Get(ctx, requestsPath, &list); err != nil {
		return err
	}
	for _, request := range list.Items {
		spec, _ := request["spec"].(map[string]any)
		status, _ := request["status"].(map[string]any)
		metadata, _ := request["metadata"].(map[string]any)
		user, _ := spec["username"].(string)
		if spec["signerName"] != "kubernetes.io/kubelet-serving" || status["conditions"] != nil || !strings.HasPrefix(user, "system:node:") {
			continue
		}
		request["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Approved", "status": "True", "reason": "Autoapproved by K0s CSRApprover", "message": "fake-k0s"}}}
		if err := d.client.Update(ctx, fmt.Sprintf("%s/%s/approval", requestsPath, metadata["name"]), request); err != nil && !standin.IsStatus(err, http.StatusConflict) {
			return err
		}
	}
	return nil
}

func (d *daemon) labelRoles(ctx context.Context) error {
	nodes, err := d.client.Nodes(ctx)
	if err != nil {
		return err
	}
	const role = "node-role.kubernetes.io/control-plane"
	for _, n := range nodes {
		if n.Metadata.Labels["node.k0sproject.io/role"] == "control-plane" && n.Metadata.Labels[role] != "true" {
			if err := d.client.Patch(ctx, "/api/v1/nodes/"+n.Metadata.Name, map[string]any{"metadata": map[string]any{"labels": map[string]any{role: "true"}}}); err != nil {
				return err
			}
		}
	}
	return nil
}
