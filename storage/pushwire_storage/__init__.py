"""The stores: durable rows behind one small contract; they know neither the gateway nor the wire."""
