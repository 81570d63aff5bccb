"""Models for other runtimes: networks as files of ONNX, OpenVINO or torch.export, with a program that predicts with them."""
