include $(sort $(wildcard $(BR2_EXTERNAL_RINGPOST_PATH)/package/*/*.mk))
