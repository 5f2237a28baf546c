{{- define "sluice.name" -}}
{{- if contains "sluice" .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{- else -}}{{ printf "%s-sluice" .Release.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "sluice.queue" -}}
{{- if eq .Values.redis.mode "embedded" -}}redis://{{ include "sluice.name" . }}-redis:6379/0
{{- else if eq .Values.redis.mode "external" -}}{{ required "redis.url: expected redis://HOST:PORT/DB with redis.mode external, got nothing" .Values.redis.url }}
{{- else -}}memory{{- end -}}
{{- end -}}

{{- define "sluice.grace" -}}
{{- /* the server itself gives up 10 s after the drain */ -}}
{{ add .Values.drain.delaySeconds .Values.drain.seconds 15 }}
{{- end -}}

{{- define "sluice.resources" -}}
requests: {{ toJson .resources.requests }}
limits: {{ if eq .device "cuda" }}{{ toJson (merge (dict "nvidia.com/gpu" 1) .resources.limits) }}{{ else }}{{ toJson .resources.limits }}{{ end }}
{{- end -}}

{{- /* A pod that runs one `sluice serve`: dict "root" $ "role" ROLE "pool" NAME "spec" VALUES */ -}}
{{- define "sluice.pod" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
metadata:
  labels:
    {{- include "sluice.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    pool: {{ .pool }}
    sluice/scrape: "true"
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "sluice.grace" $root }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets: {{ toJson . }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile: {type: RuntimeDefault}
  {{- with .spec.nodeSelector }}
  nodeSelector: {{ toJson . }}
  {{- end }}
  {{- with .spec.tolerations }}
  tolerations: {{ toJson . }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "sluice.selector" $root | nindent 10 }}
          pool: {{ .pool }}
  containers:
    - name: sluice
      image: {{ printf "%s:%s%s" $values.image.repository ($values.image.tag | default $root.Chart.AppVersion) (eq .spec.device "cuda" | ternary $values.image.gpuSuffix "") | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      env:
        - {name: SLUICE_ROLE, value: {{ .role }}}
        - {name: SLUICE_QUEUE, value: {{ include "sluice.queue" $root | quote }}}
        - {name: SLUICE_DEVICE, value: {{ .spec.device }}}
        - {name: SLUICE_LOG_FORMAT, value: json}
        - {name: SLUICE_DRAIN_DELAY_SECONDS, value: {{ $values.drain.delaySeconds | quote }}}
        - {name: SLUICE_DRAIN_SECONDS, value: {{ $values.drain.seconds | quote }}}
        {{- if $values.tls.secretName }}
        - {name: SLUICE_TLS_CERT, value: /etc/sluice/tls/tls.crt}
        - {name: SLUICE_TLS_KEY, value: /etc/sluice/tls/tls.key}
        {{- if $values.tls.clientCa }}
        - {name: SLUICE_TLS_CLIENT_CA, value: /etc/sluice/tls/ca.crt}
        {{- end }}
        {{- end }}
        {{- if $values.apiKeys.secretName }}
        - {name: SLUICE_API_KEYS, value: /etc/sluice/keys/api_keys}
        {{- end }}
        {{- if and $values.redis.passwordSecret (ne $values.redis.mode "none") }}
        - {name: SLUICE_REDIS_PASSWORD_FILE, value: /etc/sluice/redis/password}
        {{- end }}
        {{- if $values.tracing.endpoint }}
        - {name: SLUICE_OTLP_ENDPOINT, value: {{ $values.tracing.endpoint | quote }}}
        - {name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio}
        - {name: OTEL_TRACES_SAMPLER_ARG, value: {{ $values.tracing.ratio | quote }}}
        {{- end }}
        {{- range $name, $value := $values.settings }}
        - {name: {{ printf "SLUICE_%s" (upper $name) }}, value: {{ $value | quote }}}
        {{- end }}
      ports:
        {{- if ne .role "worker" }}
        - {name: grpc, containerPort: 8001}
        - {name: http, containerPort: 8000}
        {{- end }}
        - {name: metrics, containerPort: 8002}
      # readiness is "can answer now": models in service and not draining. Liveness depends on neither load nor Redis, and
      # stays true while draining, or the kubelet would kill the pod in the middle of it.
      startupProbe:
        httpGet: {path: /readyz, port: metrics}
        periodSeconds: 5
        failureThreshold: {{ div (add $values.models.loadSeconds 4) 5 }}
      readinessProbe:
        httpGet: {path: /readyz, port: metrics}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /livez, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 3
        failureThreshold: 3
      resources:
        {{- include "sluice.resources" .spec | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if $values.models.claim }}
        - {name: models, mountPath: /models, readOnly: true}
        {{- end }}
        {{- if $values.tls.secretName }}
        - {name: tls, mountPath: /etc/sluice/tls, readOnly: true}
        {{- end }}
        {{- if $values.apiKeys.secretName }}
        - {name: keys, mountPath: /etc/sluice/keys, readOnly: true}
        {{- end }}
        {{- if and $values.redis.passwordSecret (ne $values.redis.mode "none") }}
        - {name: redis, mountPath: /etc/sluice/redis, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 256Mi}
    {{- if $values.models.claim }}
    - name: models
      persistentVolumeClaim: {claimName: {{ $values.models.claim }}, readOnly: true}
    {{- end }}
    {{- if $values.tls.secretName }}
    - name: tls
      secret: {secretName: {{ $values.tls.secretName }}, defaultMode: 288}
    {{- end }}
    {{- if $values.apiKeys.secretName }}
    - name: keys
      secret: {secretName: {{ $values.apiKeys.secretName }}, defaultMode: 288}
    {{- end }}
    {{- if and $values.redis.passwordSecret (ne $values.redis.mode "none") }}
    - name: redis
      secret: {secretName: {{ $values.redis.passwordSecret }}, defaultMode: 288}
    {{- end }}
{{- end -}}
