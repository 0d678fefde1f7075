{{- define "kedge.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that single out the pods of a component: (list . "operator"). The operator looks for name and component. */}}
{{- define "kedge.selector" -}}
app.kubernetes.io/name: kedge
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "kedge.labels" -}}
{{- $root := index . 0 -}}
{{ include "kedge.selector" . }}
app.kubernetes.io/part-of: kedge
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{- define "kedge.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) }}
{{- end -}}
{{- end -}}

{{- define "kedge.settingsName" -}}
{{- default (printf "%s-settings" (include "kedge.fullname" .)) .Values.existingSettings -}}
{{- end -}}

{{/* The Secret with the token of a scope: (list . "admin"), (list . "report"). */}}
{{- define "kedge.tokenSecret" -}}
{{- $root := index . 0 -}}
{{- $scope := index . 1 -}}
{{- $existing := get (dict "admin" $root.Values.adminToken.existingSecret "report" $root.Values.adminToken.existingReportSecret) $scope -}}
{{- default (printf "%s-%s-token" (include "kedge.fullname" $root) $scope) $existing -}}
{{- end -}}

{{- define "kedge.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532  # mounted Secrets are the group's to read
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "kedge.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Metadata of a component's pods: (list . "operator" .Values.operator) */}}
{{- define "kedge.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $part := index . 2 -}}
labels:
  {{- include "kedge.selector" . | nindent 2 }}
  app.kubernetes.io/part-of: kedge
  {{- if not $root.Values.meshInjection }}
  sidecar.istio.io/inject: "false"
  kuma.io/sidecar-injection: disabled
  {{- end }}
  {{- with $part.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: kedge
  {{- if not $root.Values.existingSettings }}
  checksum/settings: {{ include "kedge.restartSettings" . | sha256sum }}
  {{- end }}
  {{- if not $root.Values.meshInjection }}
  linkerd.io/inject: disabled
  consul.hashicorp.com/connect-inject: "false"
  {{- end }}
  {{- with $part.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Settings that a component's pods take at their start only; they take all others while they run. */}}
{{- define "kedge.restartSettings" -}}
{{- $root := index . 0 -}}
{{- $component := ternary "operator" (index . 1) (eq $root.Values.mode "embedded") -}}
{{- range $root.Files.Get (printf "files/restart-%s.json" $component) | fromJsonArray }}
{{- $value := $root.Values.settings }}
{{- range splitList "." . }}
{{- $value = get (default dict $value) . }}
{{- end }}
{{ . }}: {{ toJson $value }}
{{- end }}
{{- end -}}

{{/* Where a component's pods may run: (list . "operator" .Values.operator) */}}
{{- define "kedge.placement" -}}
{{- $part := index . 2 -}}
{{- with $part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- if $part.topologySpreadConstraints }}
  {{- range $part.topologySpreadConstraints }}
  - {{ toYaml . | nindent 4 | trim }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels:
        {{- include "kedge.selector" $ | nindent 8 }}
    {{- end }}
  {{- end }}
{{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "kedge.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "kedge.environment" -}}
- name: POD_IP
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: status.podIP
- name: NODE_IP
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: status.hostIP
- name: NODE_NAME
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: spec.nodeName
- name: POD_NAME
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.name
{{- end -}}

{{/* Environment and arguments that only a process with the operator in it has. */}}
{{- define "kedge.operatorEnvironment" -}}
{{- if .Values.relays.agent }}
- name: KEDGE_AGENT_IMAGE
  value: {{ include "kedge.image" . }}
{{- if .Values.settings.admin }}
- name: KEDGE_SIGNALING_SERVICE
  value: {{ include "kedge.fullname" . }}-signaling
- name: KEDGE_REPORT_SECRET
  value: {{ include "kedge.tokenSecret" (list . "report") }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "kedge.operatorArguments" -}}
- --relay-image={{ .Values.relays.image }}
{{- range .Values.relays.signalingNetworks }}
- --signaling-network={{ . }}
{{- end }}
{{- end -}}

{{/* Probes; (list . port failureThreshold). They ask nobody else, so that an outage of the API fails none. */}}
{{- define "kedge.probes" -}}
startupProbe:
  httpGet: { path: /healthz, port: {{ . }} }
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /healthz, port: {{ . }} }
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /readyz, port: {{ . }} }
  periodSeconds: 2
  timeoutSeconds: 5
{{- end -}}

{{/* Volumes of settings and of the tokens of some scopes: (list . "admin" "report") */}}
{{- define "kedge.volumes" -}}
{{- $root := index . 0 -}}
- name: settings
  configMap:
    name: {{ include "kedge.settingsName" $root }}
{{- if $root.Values.settings.admin }}
- name: tokens
  projected:
    sources:
      {{- range $scope := rest . }}
      - secret:
          name: {{ include "kedge.tokenSecret" (list $root $scope) }}
          items: [{ key: token, path: {{ $scope }} }]
      {{- end }}
{{- end }}
{{- end -}}

{{- define "kedge.volumeMounts" -}}
- name: settings
  mountPath: /etc/kedge
  readOnly: true
{{- if .Values.settings.admin }}
- name: tokens
  mountPath: /etc/kedge-tokens
  readOnly: true
{{- end }}
{{- end -}}

{{/* A duration of the settings, such as 1h30m, in seconds, rounded up: "1h30m" */}}
{{- define "kedge.seconds" -}}
{{- $milliseconds := 0 -}}
{{- $sizes := dict "h" 3600000 "m" 60000 "s" 1000 "ms" 1 -}}
{{- range regexFindAll "[0-9]+(ms|h|m|s)" . -1 -}}
{{- $milliseconds = add $milliseconds (mul (regexFind "[0-9]+" . | int64) (get $sizes (regexFind "[a-z]+" .))) -}}
{{- end -}}
{{- div (add $milliseconds 999) 1000 -}}
{{- end -}}
