"""Device plugins: Registration and DevicePlugin, v1beta1."""
