{{/* The pod's spec, alike in the DaemonSet and in the static pod. */}}
{{- define "mvp.spec" -}}
{{- if eq .Values.workload "daemonset" }}
serviceAccountName: mvp
automountServiceAccountToken: false
{{- end }}
hostNetwork: true
{{- if eq .Values.workload "daemonset" }}
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if eq .Values.workload "daemonset" }}
nodeSelector:
  {{- toYaml .Values.nodeSelector | nindent 2 }}
tolerations:
  {{- toYaml .Values.tolerations | nindent 2 }}
{{- end }}
# Longer than drain.deadline.
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
containers:
  - name: mvp
    image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args:
      - agent
      {{- if .Values.config }}
      - --config=/etc/mvp/config.yaml
      {{- else }}
      - --from-manifest={{ .Values.manifest }}
      {{- end }}
      # The name of the Node, by which the other nodes' agents know the local server too.
      - --node=$(NODE_NAME)
      {{- if .Values.admin.exposed }}
      - --admin-listen=$(NODE_ADDRESS):{{ .Values.admin.port }}
      {{- else if ne (int .Values.admin.port) 9440 }}
      - --admin-listen=127.0.0.1:{{ .Values.admin.port }}
      {{- end }}
      {{- range .Values.set }}
      - {{ printf "--set=%s" . | quote }}
      {{- end }}
      {{- with .Values.logLevel }}
      - {{ printf "--log-level=%s" . | quote }}
      {{- end }}
      - --log-format={{ .Values.logFormat }}
    env:
      - name: NODE_NAME
        valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
      - name: NODE_ADDRESS
        valueFrom: {fieldRef: {fieldPath: status.hostIP}}
    securityContext:
      # Root reads the node's keys (mode 0600); everything else root may do is dropped but for what values.yaml gives reasons for.
      runAsUser: 0
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: {{ toJson .Values.security.capabilities }}}
      seccompProfile: {{ include "mvp.profile" (dict "type" .Values.security.seccomp "profile" .Values.security.seccompProfile) }}
      # The container runtimes' default AppArmor profile denies every write below /sys/fs, and with it every pin: nothing would be
      # steered. The default SELinux type denies the same. `mvp doctor` finds both out.
      {{- with .Values.security.appArmor }}
      appArmorProfile: {{ include "mvp.profile" (dict "type" . "profile" $.Values.security.appArmorProfile) }}
      {{- end }}
      {{- with .Values.security.seLinuxType }}
      seLinuxOptions: {type: {{ . }}}
      {{- end }}
    # No ports are named: on the host's network each is a host port, and two agents of one node could not be there at once.
    readinessProbe:
      httpGet: {{ include "mvp.probe" (dict "path" "/readyz" "admin" .Values.admin) }}
      # An agent that is about to be replaced has the port and is ready.
      initialDelaySeconds: 5
      periodSeconds: 2
    livenessProbe:
      httpGet: {{ include "mvp.probe" (dict "path" "/livez" "admin" .Values.admin) }}
      initialDelaySeconds: 10
      periodSeconds: 10
      failureThreshold: 6
    resources:
      {{- toYaml .Values.resources | nindent 6 }}
    volumeMounts:
      - {name: run, mountPath: /run/mvp}
      - {name: bpf, mountPath: {{ .Values.bpfPath }}}
      {{- range .Values.hostPaths }}
      - {name: {{ .name }}, mountPath: {{ .path }}, readOnly: true}
      {{- end }}
      {{- if .Values.config }}
      - {name: config, mountPath: /etc/mvp, readOnly: true}
      {{- end }}
volumes:
  # Of the node, so that `mvp` on the node finds the operators' socket (mode 0600).
  - name: run
    hostPath: {path: {{ .Values.runPath }}, type: DirectoryOrCreate}
  - name: bpf
    hostPath: {path: {{ .Values.bpfPath }}, type: DirectoryOrCreate}
  # Folders, not single files: renewed certificates arrive by rename. Not all of /etc/kubernetes: the agent finds its peers as
  # system:mvp (rbac.yaml) and needs no administrator's kubeconfig.
  {{- range .Values.hostPaths }}
  - name: {{ .name }}
    hostPath: {path: {{ .path }}{{ with .type }}, type: {{ . }}{{ end }}}
  {{- end }}
  {{- if .Values.config }}
  - name: config
    {{- if eq .Values.workload "daemonset" }}
    configMap: {name: mvp}
    {{- else }}
    hostPath: {path: /etc/mvp}
    {{- end }}
  {{- end }}
{{- end }}

{{/* A profile of seccomp or AppArmor. */}}
{{- define "mvp.profile" -}}
{{- if eq .type "Localhost" -}}
{type: Localhost, localhostProfile: {{ required "Localhost needs the name of a profile" .profile | quote }}}
{{- else -}}
{type: {{ .type }}}
{{- end -}}
{{- end }}

{{/* Kubelet asks on loopback, or on the pod's address, which is the node's. */}}
{{- define "mvp.probe" -}}
{{- if .admin.exposed -}}
{port: {{ .admin.port }}, path: {{ .path }}}
{{- else -}}
{host: 127.0.0.1, port: {{ .admin.port }}, path: {{ .path }}}
{{- end -}}
{{- end }}

{{/* As appArmorProfile says it, for Kubernetes before 1.30, where the field is unknown. */}}
{{- define "mvp.annotations" -}}
{{- if eq .Values.security.appArmor "Unconfined" }}
# As appArmorProfile below, for Kubernetes before 1.30.
container.apparmor.security.beta.kubernetes.io/mvp: unconfined
{{- end }}
{{- with .Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}
